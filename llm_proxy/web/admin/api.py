"""The management API as the pages call it: in this process, on behalf of the viewer.

Every page reads and changes through the API's own views, so rules, roles, texts and audit records stand there once.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlencode

import orjson
from flask import current_app, request

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


class ManagementApi(Protocol):
    """One call of the management API on behalf of a viewer."""

    def call(
        self,
        viewer: Caller,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> ApiResponse:
        """Return the response. Raises ApiRefused for a status of 400 or above."""

    def stream(self, viewer: Caller, path: str, *, query: Mapping[str, object] | None = None) -> Iterator[bytes]:
        """Return the pieces of a response that goes on. Raises ApiRefused for a status of 400 or above."""

    def health(self) -> dict[str, Any]:
        """Return what the proxy's `/health` says; `status` is `down` where it says nothing."""


class LocalApi:
    """Calls the application's own views in this process."""

    def call(
        self,
        viewer: Caller,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> ApiResponse:
        """See ManagementApi."""
        own = request.environ
        overrides = {name: own[name] for name in _PASSED_ON if name in own} | {context.CALLER: viewer}
        fields = {
            "User-Agent": request.headers.get("User-Agent", ""),
            "X-Admin-Origin": "1",
            "X-Request-ID": context.request_id(),
            **(headers or {}),
        }
        asked = query_string(query)
        client = current_app.test_client()
        response = client.open(
            path, method=method, json=body, query_string=asked, headers=fields, environ_overrides=overrides
        )
        return read(response.status_code, response.get_data(), {k.lower(): v for k, v in response.headers.items()})

    def stream(self, viewer: Caller, path: str, *, query: Mapping[str, object] | None = None) -> Iterator[bytes]:
        """See ManagementApi."""
        own = request.environ
        overrides = {name: own[name] for name in _PASSED_ON if name in own} | {context.CALLER: viewer}
        fields = {"User-Agent": request.headers.get("User-Agent", ""), "X-Admin-Origin": "1"}
        response = current_app.test_client().open(
            path, query_string=query_string(query), headers=fields, environ_overrides=overrides
        )
        if response.status_code >= 400:
            read(response.status_code, response.get_data(), {k.lower(): v for k, v in response.headers.items()})
        return response.iter_encoded()

    def health(self) -> dict[str, Any]:
        """See ManagementApi."""
        now = rfc3339(utc_now())
        failing = context.services().readiness()
        if failing is not None:
            return {"status": "down", "error": failing, "timestamp": now, "version": __version__}
        return {"status": "ok", "timestamp": now, "version": __version__}


def query_string(query: Mapping[str, object] | None) -> str:
    """Return a query without what is None or empty; lists become repeated names."""
    pairs = [(name, str(value)) for name, value in (query or {}).items() if value not in (None, "")]
    return urlencode(pairs)


def read(status: int, content: bytes, headers: Mapping[str, str]) -> ApiResponse:
    """Return a response, or raise ApiRefused for one of 400 or above."""
    is_json = "json" in headers.get("content-type", "")
    data = orjson.loads(content) if content and is_json else (content.decode("utf-8", "replace") or None)
    if status == ResourceNotFound.status:
        raise ResourceNotFound(data["error"] if isinstance(data, dict) else None)
    if status >= 400:
        raise ApiRefused(status, data, headers)
    return ApiResponse(status, data, headers)
