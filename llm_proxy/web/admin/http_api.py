"""The management API over HTTP, for an admin UI in its own process."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any
from urllib.parse import quote

import orjson
from flask import request

from llm_proxy.access.delegation import FIELD, Viewer, sign
from llm_proxy.access.sessions import Method
from llm_proxy.errors import ManagementUnavailable
from llm_proxy.web import context
from llm_proxy.web.admin import cookies
from llm_proxy.web.admin.api import ApiRequest, ApiResponse, read

Connect = Callable[[], HTTPConnection]
_LOG = logging.getLogger(__name__)
_PIECE_BYTES = 65_536
_DOWN = {"status": "down", "error": "Backend unavailable"}


class HttpApi:
    """Calls a proxy with the process's own credential, and names the viewer in a field signed under it.

    Args:
        connect: Makes a connection to the proxy, with its timeouts.
        root: Path below which the proxy is, without a slash at its end.
        credential: MANAGEMENT_TOKEN or a management key.
    """

    def __init__(self, connect: Connect, root: str, credential: str) -> None:
        self._connect, self._root, self._credential = connect, root, credential

    def call(self, asked: ApiRequest) -> ApiResponse:
        """See ManagementApi. Raises ManagementUnavailable as well."""
        return read(*self.send(asked.method, asked.path, asked.query_string, asked.body, self._fields(asked)))

    def stream(self, asked: ApiRequest) -> Iterator[bytes]:
        """See ManagementApi. Raises ManagementUnavailable as well, before the first piece."""
        fields = {**_about_client(), **self._fields(asked)}
        connection, response = self._begin(asked.method, asked.path, asked.query_string, None, fields)
        if response.status >= 400:
            with closing(connection):
                read(response.status, response.read(), _lowered(response))
        return _pieces(connection, response)

    def complete(self, body: Any, authorization: str) -> tuple[int, dict[str, str], Iterator[bytes]]:
        """Return status, fields and pieces of a completion, with the caller's token. Raises ManagementUnavailable."""
        fields = {"Authorization": authorization, "Content-Type": "application/json"}
        connection, response = self._begin("POST", "/v1/chat/completions", "", body, fields)
        return response.status, _lowered(response), _pieces(connection, response)

    def whoami(self, secret: str) -> ApiResponse:
        """Return what a root token or key is, by asking with it. Raises ApiRefused, ManagementUnavailable."""
        return read(*self.send("GET", "/manage/whoami", "", None, {"Authorization": f"Bearer {secret}"}))

    def health(self) -> dict[str, Any]:
        """See ManagementApi."""
        try:
            status, content, _ = self.send("GET", "/health", "", None, {})
            found = orjson.loads(content)
        except (ManagementUnavailable, ValueError):
            return dict(_DOWN)
        return found if status == 200 and isinstance(found, dict) else dict(_DOWN)

    def send(
        self, method: str, path: str, query: str, body: Any, headers: Mapping[str, str]
    ) -> tuple[int, bytes, dict[str, str]]:
        """Return status, content and fields of one request."""
        connection, response = self._begin(method, path, query, body, {**_about_client(), **headers})
        with closing(connection):
            try:
                return response.status, response.read(), _lowered(response)
            except (OSError, HTTPException) as error:
                raise ManagementUnavailable from error

    def _begin(
        self, method: str, path: str, query: str, body: Any, headers: Mapping[str, str]
    ) -> tuple[HTTPConnection, HTTPResponse]:
        """Return the connection and the response whose content is not read yet. Raises ManagementUnavailable."""
        target = self._root + quote(path, safe="/:@!$&'()*+,;=~") + (f"?{query}" if query else "")
        content = None if body is None else orjson.dumps(body)
        connection = self._connect()
        try:
            connection.request(method, target, content, dict(headers))
            return connection, connection.getresponse()
        except (OSError, HTTPException) as error:
            connection.close()
            raise ManagementUnavailable from error

    def _fields(self, asked: ApiRequest) -> dict[str, str]:
        """Return the fields that name the process and, signed, the viewer."""
        fields, session = {"Authorization": f"Bearer {self._credential}", **asked.headers}, cookies.session()
        if session is not None:
            viewer = asked.viewer
            person = viewer.actor if session.method is Method.OIDC else None
            named = Viewer(viewer.key_id, session.fingerprint, viewer.role, viewer.projects, person)
            fields[FIELD] = sign(named, self._credential, asked.method, asked.path)
        return fields


def _pieces(connection: HTTPConnection, response: HTTPResponse) -> Iterator[bytes]:
    """Yield content as it comes; the page's script connects again when the proxy breaks off."""
    with closing(connection):
        try:
            while piece := response.read1(_PIECE_BYTES):
                yield piece
        except (OSError, HTTPException) as error:
            _LOG.warning("the proxy broke off a response: %s", error)


def _lowered(response: HTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.getheaders()}


def _about_client() -> dict[str, str]:
    """Return the fields that tell the proxy of the browser, for its audit records."""
    fields = {
        "X-Admin-Origin": "1",
        "X-Forwarded-For": context.client_ip() or "",
        "X-Forwarded-User-Agent": request.headers.get("User-Agent", ""),
        "X-Request-ID": context.request_id(),
        "Content-Type": "application/json",
    }
    return {name: value.encode("latin-1", "replace").decode("latin-1") for name, value in fields.items() if value}
