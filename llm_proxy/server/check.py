"""What gunicorn's parsers let through and a proxy must not (RFC 9112 §3.2, §6.1, §6.3; data-plane decision 17)."""

import re
from typing import Any

from llm_proxy.errors import MalformedRequest
from llm_proxy.server.answer import list_members

HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~%!$&'()*+;=-]+)(?::[0-9]{0,5})?")
ABSOLUTE = re.compile(r"(?i:https?)://([^/?#]+)([^#]*)")
LENGTH_DIGITS = 18  # what fits into 63 bits; the Python parser takes any number


def check(req: Any) -> None:
    """Raise MalformedRequest for a head that must be refused; reduce an absolute-form target to its path and query."""
    if req.version not in ((1, 1), (1, 0)):
        raise MalformedRequest
    host: str | None = None
    for name, value in req.headers:
        if name == "HOST":
            host = value
        elif name == "CONNECTION":
            if "close" in list_members(value):
                req.force_close()  # gunicorn looks at a field that says nothing else
        elif name == "TRANSFER-ENCODING":
            if value.lower() != "chunked":  # with another coding before it the body would arrive still coded
                raise MalformedRequest
        elif name == "CONTENT-LENGTH" and len(value) > LENGTH_DIGITS:
            raise MalformedRequest
    if host is None:
        if req.version == (1, 1):
            raise MalformedRequest
    elif not HOST.fullmatch(host):
        raise MalformedRequest
    _check_target(req)


def _check_target(req: Any) -> None:
    target: str = req.uri
    if req.method == "CONNECT" or "#" in target:
        raise MalformedRequest
    if target.startswith("/") or target == "*":  # gunicorn refuses "*" with another method than OPTIONS
        return
    found = ABSOLUTE.fullmatch(target)
    if found is None or not HOST.fullmatch(found[1]):
        raise MalformedRequest
    req.uri = found[2] if found[2].startswith("/") else "/" + found[2]
    req.path = req.path or "/"
