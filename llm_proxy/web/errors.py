"""The only renderer of errors: OpenAI's object on /v1, the flat form elsewhere."""

import logging
from http import HTTPStatus
from typing import Any

import orjson
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import MethodNotAllowed as WrongMethod

from llm_proxy.errors import LlmProxyError, MethodNotAllowed, NotFound

JSON = "application/json"
_REASONS = {status.value: status.phrase for status in HTTPStatus}
_log = logging.getLogger(__name__)

Fields = list[tuple[str, str]]
_ANTHROPIC = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
}
_GOOGLE = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


_FINAL = (401, 403)  # Claude Code repeats a 401 for minutes, unless it is told that this is useless


def openai_form(error: LlmProxyError) -> bytes:
    """Return the body on /v1: what stock clients read, and the reference's `description` and `code` beside it."""
    inner = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    return _body({"error": inner}, error)


def flat_form(error: LlmProxyError) -> bytes:
    """Return the body elsewhere: `error`, and `description`, `code` where there are any."""
    return _body({"error": error.message, **getattr(error, "more", {})}, error)


def _body(start: dict[str, Any], error: LlmProxyError) -> bytes:
    if error.description is not None:
        start["description"] = error.description
    if error.code is not None:
        start["code"] = error.code
    return orjson.dumps(start, option=orjson.OPT_APPEND_NEWLINE)


def anthropic_form(error: LlmProxyError) -> bytes:
    """Anthropic's object, by which its SDK chooses an exception."""
    kind = _ANTHROPIC.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    return _body({"type": "error", "error": {"type": kind, "message": error.message}}, error)


def google_form(error: LlmProxyError) -> bytes:
    """Google's object; the proxy's own code is the reason of its ErrorInfo."""
    status = _GOOGLE.get(error.status, "INTERNAL" if error.status >= 500 else "INVALID_ARGUMENT")
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": error.code, "domain": "llm-proxy"}
    inner = {"code": error.status, "message": error.message, "status": status, "details": [info]}
    return _body({"error": inner}, error)


def render(error: LlmProxyError, *, is_openai: bool = True, shape: str = "openai") -> tuple[str, Fields, bytes]:
    """Status line, fields and body of an error; `shape` is the provider's `error_shape`."""
    body = _SHAPES[shape](error) if is_openai else flat_form(error)
    fields: Fields = [("Content-Type", JSON), ("Content-Length", str(len(body))), *error.fields]
    if error.retry_after_s is not None:
        fields.append(("Retry-After", str(error.retry_after_s)))
    elif shape == "anthropic" and error.status in _FINAL:
        fields.append(("x-should-retry", "false"))
    return f"{error.status} {_REASONS.get(error.status, '')}", fields, body


_SHAPES = {"openai": openai_form, "anthropic": anthropic_form, "google": google_form}


def error_response(error: LlmProxyError) -> Response:
    """Return an error as a Flask response, in the form of the path that it happened on."""
    status, fields, body = render(error, is_openai=request.path == "/v1" or request.path.startswith("/v1/"))
    return Response(body, status=status, headers=fields)


def register(app: Flask) -> None:
    """Answer whatever a view raises; details go to the log alone."""
    app.register_error_handler(LlmProxyError, error_response)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _unexpected)


def _http(error: HTTPException) -> Response:
    """werkzeug's own refusals: no route, wrong method, a body that cannot be read."""
    if isinstance(error, WrongMethod):
        return error_response(MethodNotAllowed(allow=tuple(sorted(error.valid_methods or ()))))
    if error.code == HTTPStatus.NOT_FOUND:
        unknown = NotFound()
        if request.path.partition("/manage")[0]:  # a client's base URL without /v1 is the commonest mistake
            unknown.more = {"hint": "the API is under /v1"}
        return error_response(unknown)
    refused = LlmProxyError(error.name)
    body = orjson.dumps({"error": refused.message}, option=orjson.OPT_APPEND_NEWLINE)
    return Response(body, status=error.code or 500, content_type=JSON)


def _unexpected(error: Exception) -> Response:
    _log.error("a view failed", exc_info=error)
    return error_response(LlmProxyError())
