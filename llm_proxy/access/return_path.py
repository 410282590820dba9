"""Where a browser may be sent after a sign-in: a path of the admin UI, and never another host."""

import re

from llm_proxy.errors import BadRequest

_FORM = re.compile(r"/(?![/\\])[!-\[\]-~]*")  # printable ASCII without blanks and backslashes
_MOST = 2000


def return_path(wanted: str | None, prefix: str) -> str:
    """Return the path that was asked for, or the prefix. Raises BadRequest for what leads elsewhere.

    Args:
        prefix: The admin UI's path; what is not below it is refused, too.
    """
    if not wanted:
        return f"{prefix}/"
    path = re.split(r"[?#]", wanted, maxsplit=1)[0]
    is_below = path == prefix or path.startswith(f"{prefix}/")
    if len(wanted) > _MOST or not _FORM.fullmatch(wanted) or not is_below or ".." in path or "%" in path:
        raise BadRequest("the page to return to must be a path of the admin UI", param="next")
    return wanted
