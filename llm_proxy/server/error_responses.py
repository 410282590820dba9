"""Responses that the server layer gives in the application's place: the same JSON error object."""

import json
from typing import Any

from gunicorn import util
from gunicorn.http.errors import LimitRequestHeaders, LimitRequestLine, ParseException

from llm_proxy.errors import HeaderFieldsTooLarge, LlmProxyError, MalformedRequest, UriTooLong
from llm_proxy.runtime.ids import accepted_id, uuid7

_REASONS = {
    400: "Bad Request",
    405: "Method Not Allowed",
    408: "Request Timeout",
    414: "URI Too Long",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
}
_ERRORS: tuple[tuple[type[Exception], type[LlmProxyError]], ...] = (
    (LimitRequestLine, UriTooLong),
    (LimitRequestHeaders, HeaderFieldsTooLarge),
    (ParseException, MalformedRequest),
)


def as_error(exc: BaseException) -> LlmProxyError:
    """Return the response to what went wrong; anything unknown is a failure of the server, 500."""
    if isinstance(exc, LlmProxyError):
        return exc
    for raised, error in _ERRORS:
        if isinstance(exc, raised):
            return error()
    return LlmProxyError()


def request_id_of(req: Any) -> str:
    """Return the client's X-Request-ID where it has a good one, else a new one. `req` may be None."""
    for name, value in () if req is None else req.headers:
        if name == "X-REQUEST-ID" and accepted_id(value) is not None:
            return str(value)
    return uuid7()


def render(error: LlmProxyError, request_id: str, *, with_body: bool = True) -> bytes:
    """Return the whole response; the connection is closed after it."""
    told = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    body: dict[str, object] = {"error": told}
    if error.description is not None:
        body["description"] = error.description
    body["code"] = error.code
    content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    fields = [
        ("Date", util.http_date()),
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(content))),
        ("X-Request-ID", request_id),
        ("Connection", "close"),
        *(field for field in error.fields if field[0] != "Connection"),
    ]
    lines = [f"HTTP/1.1 {error.status} {_REASONS.get(error.status, 'Error')}", *(f"{n}: {v}" for n, v in fields)]
    head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
    return head + content if with_body else head
