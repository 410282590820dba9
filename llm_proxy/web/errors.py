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
MANAGE = "/manage"
_REASONS = {status.value: status.phrase for status in HTTPStatus}
_log = logging.getLogger(__name__)

Fields = list[tuple[str, str]]


def openai_form(error: LlmProxyError) -> bytes:
    """The body on /v1: what stock clients read, and the reference's `description` and `code` beside it."""
    inner = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    return _body({"error": inner}, error)


def flat_form(error: LlmProxyError) -> bytes:
    """The body elsewhere: `error`, and `description`, `code` where there are any."""
    return _body({"error": error.message, **getattr(error, "more", {})}, error)


def _body(start: dict[str, Any], error: LlmProxyError) -> bytes:
    if error.description is not None:
        start["description"] = error.description
    if error.code is not None:
        start["code"] = error.code
    return orjson.dumps(start, option=orjson.OPT_APPEND_NEWLINE)


def render(error: LlmProxyError, *, is_openai: bool = True) -> tuple[str, Fields, bytes]:
    """Status line, fields and body of an error."""
    body = openai_form(error) if is_openai else flat_form(error)
    fields: Fields = [("Content-Type", JSON), ("Content-Length", str(len(body))), *error.fields]
    if error.retry_after_s is not None:
        fields.append(("Retry-After", str(error.retry_after_s)))
    return f"{error.status} {_REASONS.get(error.status, '')}", fields, body


def answer(error: LlmProxyError) -> Response:
    """An error as a Flask response, in the form of the path that it happened on."""
    status, fields, body = render(error, is_openai=request.path == "/v1" or request.path.startswith("/v1/"))
    return Response(body, status=status, headers=fields)


def register(app: Flask) -> None:
    """Answer whatever a view raises; details go to the log alone."""
    app.register_error_handler(LlmProxyError, answer)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _unexpected)


def _http(error: HTTPException) -> Response:
    """werkzeug's own refusals: no route, wrong method, a body that cannot be read."""
    if isinstance(error, WrongMethod):
        return answer(MethodNotAllowed(allow=tuple(sorted(error.valid_methods or ()))))
    if error.code == HTTPStatus.NOT_FOUND:
        unknown = NotFound()
        if request.path.partition("/manage")[0]:  # a client's base URL without /v1 is the commonest mistake
            unknown.more = {"hint": "the API is under /v1"}
        return answer(unknown)
    refused = LlmProxyError(error.name)
    body = orjson.dumps({"error": refused.message}, option=orjson.OPT_APPEND_NEWLINE)
    return Response(body, status=error.code or 500, content_type=JSON)


def _unexpected(error: Exception) -> Response:
    _log.error("a view failed", exc_info=error)
    return answer(LlmProxyError())
