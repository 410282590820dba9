"""The management API as the pages call it: in this process, on behalf of the viewer.

Every page reads and changes through the API's own views, so rules, roles, texts and audit records stand there once.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlencode

import orjson
from flask import current_app, request
from werkzeug.test import TestResponse

from llm_proxy import __version__
from llm_proxy.access.caller import Caller
from llm_proxy.errors import ManagementError, ResourceNotFound
from llm_proxy.runtime.clock import rfc3339, utc_now
from llm_proxy.web import context

_PASSED_ON = (
    "REMOTE_ADDR",
    "HTTP_X_FORWARDED_FOR",
    "HTTP_X_FORWARDED_PROTO",
    "HTTP_HOST",
    "HTTP_X_REQUEST_ID",
    "HTTP_X_CORRELATION_ID",
    "wsgi.url_scheme",
    "llm_proxy.fields",
)


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """A successful response: its JSON (None when empty), and its fields in lower case."""

    status: int
    data: Any
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def tag(self) -> str:
        """The entity tag, for `If-Match`; empty without one."""
        return self.headers.get("etag", "")


class ApiRefused(ManagementError):
    """The API refused: its status, message, code and the field at fault."""

    def __init__(self, status: int, data: Any, headers: Mapping[str, str]) -> None:
        body = data if isinstance(data, dict) else {}
        text = ": ".join(str(body[name]) for name in ("error", "message") if body.get(name))
        super().__init__(text or f"HTTP {status}", code=body.get("code"), param=body.get("param"))
        self.status = status  # type: ignore[misc]  # of this response, not of the class
        self.body = body
        retry_after = headers.get("retry-after", "")
        self.retry_after_s = int(retry_after) if retry_after.isdigit() else None


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """A call of the management API on behalf of a viewer.

    Attributes:
        query: Parameters; those that are None or empty are left out.
        body: A JSON value; None for no body.
    """

    viewer: Caller
    method: str
    path: str
    query: Mapping[str, object] = field(default_factory=dict)
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def query_string(self) -> str:
        """The query, encoded."""
        return urlencode([(name, str(value)) for name, value in self.query.items() if value not in (None, "")])


class ManagementApi(Protocol):
    """The management API, in this process or over HTTP."""

    def call(self, asked: ApiRequest) -> ApiResponse:
        """Return the response. Raises ApiRefused for a status of 400 or above."""

    def stream(self, asked: ApiRequest) -> Iterator[bytes]:
        """Return the pieces of a response that goes on. Raises ApiRefused for a status of 400 or above."""

    def health(self) -> dict[str, Any]:
        """Return what the proxy's `/health` says; `status` is `down` where it says nothing."""


class LocalApi:
    """Calls the application's own views in this process."""

    def call(self, asked: ApiRequest) -> ApiResponse:
        """See ManagementApi."""
        response = self._open(asked)
        return read(response.status_code, response.get_data(), _lowered(response))

    def stream(self, asked: ApiRequest) -> Iterator[bytes]:
        """See ManagementApi."""
        response = self._open(asked)
        if response.status_code >= 400:
            read(response.status_code, response.get_data(), _lowered(response))
        return response.iter_encoded()

    @staticmethod
    def _open(asked: ApiRequest) -> TestResponse:
        own = request.environ
        overrides = {name: own[name] for name in _PASSED_ON if name in own} | {context.CALLER: asked.viewer}
        fields = {
            "User-Agent": request.headers.get("User-Agent", ""),
            "X-Admin-Origin": "1",
            "X-Request-ID": context.request_id(),
            **asked.headers,
        }
        return current_app.test_client().open(
            asked.path,
            method=asked.method,
            json=asked.body,
            query_string=asked.query_string,
            headers=fields,
            environ_overrides=overrides,
        )

    def health(self) -> dict[str, Any]:
        """See ManagementApi."""
        now = rfc3339(utc_now())
        failing = context.services().readiness()
        if failing is not None:
            return {"status": "down", "error": failing, "timestamp": now, "version": __version__}
        return {"status": "ok", "timestamp": now, "version": __version__}


def _lowered(response: TestResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


def read(status: int, content: bytes, headers: Mapping[str, str]) -> ApiResponse:
    """Return a response, or raise ApiRefused for one of 400 or above."""
    is_json = "json" in headers.get("content-type", "")
    data = orjson.loads(content) if content and is_json else (content.decode("utf-8", "replace") or None)
    if status == ResourceNotFound.status:
        raise ResourceNotFound(data["error"] if isinstance(data, dict) else None)
    if status >= 400:
        raise ApiRefused(status, data, headers)
    return ApiResponse(status, data, headers)
