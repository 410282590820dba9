"""The admin UI as its own application, before a proxy that it reaches by HTTP alone."""

import logging
from typing import Any

from flask import Flask, Response
from werkzeug.exceptions import HTTPException

from llm_proxy import logs
from llm_proxy.access.caller import Caller
from llm_proxy.access.roles import Role
from llm_proxy.access.secret import stored
from llm_proxy.access.sessions import Method, Origin
from llm_proxy.audit.record import AuditEvent
from llm_proxy.errors import TooManyFailures, Unauthorized
from llm_proxy.runtime.clock import parse_rfc3339
from llm_proxy.settings import Settings
from llm_proxy.web import admin, context
from llm_proxy.web.admin import frame, pages
from llm_proxy.web.admin.api import ApiRefused, ManagementApi
from llm_proxy.web.admin.http_api import Connect, HttpApi
from llm_proxy.web.admin.memory_sessions import MemorySessions

_LOG = logging.getLogger(__name__)


class Services:
    """What the pages use of a process; the rest is behind the management API."""

    def __init__(self, settings: Settings, api: HttpApi) -> None:
        self.settings = settings
        self.sessions = MemorySessions()
        self.sign_in = RemoteSignIn(api)
        self.audit = LoggedAudit()
        self.access = logs.AccessLog(settings.operation.log_level)


class RemoteSignIn:
    """Begins sessions by asking the management API what a token or key is."""

    oidc = None
    takes_secrets = True

    def __init__(self, api: HttpApi) -> None:
        self._api = api

    def by_secret(self, secret: str, *, peer: str | None, client_ip: str | None) -> Origin:
        """Return the origin of a session. Raises Unauthorized, TooManyFailures, ManagementUnavailable."""
        if not secret.isascii():
            raise Unauthorized("invalid management token")
        try:
            response = self._api.whoami(secret)
        except ApiRefused as refused:
            if refused.status == TooManyFailures.status:
                raise TooManyFailures(retry_after_s=refused.retry_after_s) from refused
            if refused.status == Unauthorized.status:
                raise Unauthorized(refused.message) from refused
            raise
        found, key_id = response.data, response.headers.get("x-management-key-id")
        projects = found["projects"]
        caller = Caller(
            found["actor"],
            Role(found["role"]),
            None if projects is None else frozenset(projects),
            key_id,
            None if found["expires_at"] is None else parse_rfc3339(found["expires_at"]),
        )
        return Origin(caller, Method.TOKEN if key_id is None else Method.KEY, stored(secret))


class LoggedAudit:
    """Takes records of sign-ins, which go to the log: the trail of changes is the proxy's."""

    def record(self, event: AuditEvent, connection: Any = None) -> None:
        """Log a record."""
        _LOG.info("%s %s", event.action, event.outcome, extra={"actor": event.actor})

    def offer(self, event: AuditEvent) -> None:
        """Log a record."""
        self.record(event)


class StandaloneFlask(Flask):
    """Flask that knows the prefix of a trusted proxy."""

    def wsgi_app(self, environ: Any, start_response: Any) -> Any:
        """Serve a request."""
        context.apply_prefix(environ, self.extensions["llm_proxy"].settings.server.trusted_proxies)
        return super().wsgi_app(environ, start_response)


def create_app(settings: Settings, connect: Connect, root: str, credential: str) -> Flask:
    """Wire an application.

    Args:
        connect: Makes a connection to the proxy.
        root: Path below which the proxy is.
        credential: MANAGEMENT_TOKEN or a management key.
    """
    app = StandaloneFlask("llm_proxy", static_folder=None)
    api = HttpApi(connect, root, credential)
    app.extensions["llm_proxy"] = services = Services(settings, api)
    served: ManagementApi = api
    app.extensions[frame.API] = served
    context.register(app, services.access, settings.operation.metrics_path)
    app.register_blueprint(admin.blueprint(""))
    app.register_error_handler(HTTPException, _http)
    return app


def _http(error: HTTPException) -> Response:
    """Return the page of werkzeug's own refusals, such as an unknown address."""
    return pages.guarded(pages.page(error.name, "<p><a href='./'>Dashboard</a></p>", error.code or 500))
