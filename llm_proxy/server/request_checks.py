"""What gunicorn's parsers let through and a proxy must not (RFC 9112 §3.2, §6.1, §6.3)."""

import re
from typing import Any

from llm_proxy.errors import MalformedRequest, MethodNotAllowed
from llm_proxy.server.body import LENGTH_DIGITS
from llm_proxy.server.response import list_members

HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~%!$&'()*+;=-]+)(?::[0-9]{0,5})?")
ABSOLUTE = re.compile(r"(?i:https?)://([^/?#]+)([^#]*)")
ALL_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")


def check(req: Any) -> None:
    """Check a head, and reduce an absolute-form target to its path and query.

    Raises:
        MalformedRequest: The head must be refused.
        MethodNotAllowed: CONNECT.
    """
    _settle_version(req)
    if req.method == "CONNECT":  # no tunnels here (RFC 9110 §9.3.6)
        raise MethodNotAllowed(allow=ALL_METHODS)
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


def _settle_version(req: Any) -> None:
    """Treat a later minor version as 1.1 (RFC 9110 §2.5); ignore what HTTP/1.0 does not know (§7.8, §10.1.1)."""
    major, minor = req.version
    if major != 1:
        raise MalformedRequest
    if minor > 1:
        req.version = (1, 1)
    elif minor == 0:
        req.headers = [field for field in req.headers if field[0] not in ("EXPECT", "UPGRADE")]


def _check_target(req: Any) -> None:
    target: str = req.uri
    if "#" in target:
        raise MalformedRequest
    if target.startswith("/") or target == "*":  # gunicorn refuses "*" with another method than OPTIONS
        return
    found = ABSOLUTE.fullmatch(target)
    if found is None or not HOST.fullmatch(found[1]):
        raise MalformedRequest
    req.uri = found[2] if found[2].startswith("/") else "/" + found[2]
    req.path = req.path or "/"
