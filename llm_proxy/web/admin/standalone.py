"""The admin UI as its own application, before a proxy that it reaches by HTTP alone."""

import logging
from typing import Any

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from llm_proxy import logs
from llm_proxy.access.caller import Caller
from llm_proxy.access.flows import MemoryFlows, SignInRefused
from llm_proxy.access.oidc import OidcSignIn, SignedIn
from llm_proxy.access.roles import Role
from llm_proxy.access.secret import stored
from llm_proxy.access.sessions import Method, Origin
from llm_proxy.access.sign_in import SECRETS_REFUSED, build_oidc, of_person
from llm_proxy.audit.record import AuditEvent
from llm_proxy.errors import ManagementUnavailable, TooManyFailures, Unauthorized
from llm_proxy.runtime.clock import parse_rfc3339
from llm_proxy.settings import Settings
from llm_proxy.web import admin, context
from llm_proxy.web.admin import cookies, frame, pages
from llm_proxy.web.admin.api import ApiRefused, ManagementApi
from llm_proxy.web.admin.http_api import Connect, HttpApi
from llm_proxy.web.admin.memory_sessions import MemorySessions

_LOG = logging.getLogger(__name__)
_COMPLETION_BYTES = 1024 * 1024
_HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding")


class Services:
    """What the pages use of a process; the rest is behind the management API."""

    def __init__(self, settings: Settings, api: HttpApi) -> None:
        self.settings = settings
        self.sessions = MemorySessions()
        oidc = build_oidc(settings.sign_in, MemoryFlows())
        self.sign_in = RemoteSignIn(api, oidc, takes_secrets=not settings.sign_in.oidc_only)
        self.audit = LoggedAudit()
        self.access = logs.AccessLog(settings.operation.log_level)


class RemoteSignIn:
    """Begins sessions by asking the management API what a token or key is, or at an OpenID provider.

    Attributes:
        oidc: Sign-in at an OpenID provider; None when it is not configured.
        takes_secrets: Whether root token and keys begin sessions, too.
    """

    def __init__(self, api: HttpApi, oidc: OidcSignIn | None, *, takes_secrets: bool) -> None:
        self._api, self.oidc, self.takes_secrets = api, oidc, takes_secrets

    def by_secret(self, secret: str, *, peer: str | None, client_ip: str | None) -> Origin:
        """Return the origin of a session.

        Raises:
            SignInRefused: ADMIN_OIDC_ONLY is set.
            Unauthorized, TooManyFailures, ManagementUnavailable: As the management API says.
        """
        if not self.takes_secrets:
            raise SignInRefused(SECRETS_REFUSED)
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

    def by_person(self, person: SignedIn) -> Origin:
        """Return the origin for a person whom the provider vouches for. Raises SignInRefused when that is off."""
        return of_person(person, self.oidc)


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
    context.register(app, lambda: services.access, settings.operation.metrics_path)
    app.register_blueprint(admin.blueprint(""))
    app.register_error_handler(HTTPException, _http)
    app.add_url_rule("/v1/chat/completions", view_func=lambda: _complete(api), methods=["POST"], endpoint="complete")
    return app


def _http(error: HTTPException) -> Response:
    """Return the page of werkzeug's own refusals, such as an unknown address."""
    return pages.guarded(pages.page(error.name, "<p><a href='./'>Dashboard</a></p>", error.code or 500))


def _complete(api: HttpApi) -> Response:
    """Hand the playground's completion on to the proxy: a page may call its own host alone. 401 without a session."""
    if cookies.session() is None:
        return Response("sign in first\n", 401, content_type="text/plain")
    request.max_content_length = _COMPLETION_BYTES
    body = request.get_json(silent=True)
    try:
        status, fields, pieces = api.complete(body, request.headers.get("Authorization", ""))
    except ManagementUnavailable:
        return Response('{"error":{"message":"the proxy cannot be reached"}}\n', 502, content_type="application/json")
    kept = {name: value for name, value in fields.items() if name not in _HOP_BY_HOP}
    return pages.guarded(Response(pieces, status, kept))
