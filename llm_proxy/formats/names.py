"""How names of parameters are compared, and which charsets are read here: the readings of lenient providers."""

from typing import Final

_READABLE_CHARSETS: Final = ("utf-8", "utf8", "us-ascii", "ascii")


def fold(name: str) -> str:
    """Return the form in which names of parameters are compared: Go's JSON reader, for one, takes any case."""
    return name.casefold()


def fold_field(name: str) -> str:
    """Return the same for a field of a form or query: PHP, Rack and qs read `+model[]` as `model`."""
    return fold(name.partition("\0")[0].strip().partition("[")[0]).replace(".", "_").replace(" ", "_")


def is_readable(content_type: str) -> bool:
    """Return whether a Content-Type names no charset, or one in which text is read here.

    One in the extended form of RFC 2231 (`charset*=`, `charset*0=`) is none.
    """
    if "charset" not in content_type.lower():
        return True
    for parameter in content_type.lower().replace(",", ";").split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().partition("*")[0] == "charset" and value.strip().strip("\"'") not in _READABLE_CHARSETS:
            return False
    return True
