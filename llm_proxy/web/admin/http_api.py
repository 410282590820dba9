"""The management API over HTTP, for an admin UI in its own process."""

from collections.abc import Callable, Mapping
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import quote

import orjson
from flask import request

from llm_proxy.access.caller import Caller
from llm_proxy.access.delegation import FIELD, Viewer, sign
from llm_proxy.access.sessions import Method
from llm_proxy.errors import ManagementUnavailable
from llm_proxy.web import context
from llm_proxy.web.admin import cookies
from llm_proxy.web.admin.api import ApiResponse, query_string, read

Connect = Callable[[], HTTPConnection]
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
        """See ManagementApi. Raises ManagementUnavailable as well."""
        session = cookies.session()
        fields = {"Authorization": f"Bearer {self._credential}", **(headers or {})}
        if session is not None:
            person = viewer.actor if session.method is Method.OIDC else None
            named = Viewer(viewer.key_id, session.fingerprint, viewer.role, viewer.projects, person)
            fields[FIELD] = sign(named, self._credential, method, path)
        return read(*self.send(method, path, query_string(query), body, fields))

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
        target = self._root + quote(path, safe="/:@!$&'()*+,;=~") + (f"?{query}" if query else "")
        content = None if body is None else orjson.dumps(body)
        connection = self._connect()
        try:
            connection.request(method, target, content, {**_about_client(), **headers})
            response = connection.getresponse()
            return response.status, response.read(), {name.lower(): value for name, value in response.getheaders()}
        except (OSError, HTTPException) as error:
            raise ManagementUnavailable from error
        finally:
            connection.close()


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
