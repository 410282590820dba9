"""The application: every part, wired. The only file that knows all of them."""

import logging
from collections.abc import Iterable
from typing import Any

from flask import Flask, Request
from flask.typing import ResponseReturnValue
from werkzeug.routing import MapAdapter

from llm_proxy.cli import register as register_commands
from llm_proxy.container import Container
from llm_proxy.errors import ClientConnectionError
from llm_proxy.lifecycle import WorkerLifecycle
from llm_proxy.providers import ProviderFileError, mounts
from llm_proxy.providers.allow_list import PROXY_PATH, RESERVED_PATHS
from llm_proxy.settings import Loaded, Settings, handed_over, load
from llm_proxy.web import admin, context, errors, health, management, measured, proxy

_log = logging.getLogger(__name__)


class LlmProxyFlask(Flask):
    """Flask with a separate lane for the proxy, and hooks for the server layer.

    Attributes:
        services: The process's parts.
        hooks: What the server layer calls.
        faults: Why this application must not serve, a line each; empty when nothing is wrong.
    """

    services: Container
    hooks: WorkerLifecycle
    faults: list[str]
    _endpoint: proxy.ProxyEndpoint
    _fast_lane: proxy.FastLane | None = None
    _host_lane: proxy.FastLane | None = None  # what Flask's routes can't tell: they know no hosts

    def wsgi_app(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        """Serve the proxy's requests past Flask's dispatch, which costs half as much as forwarding one (ADR 0060)."""
        lane = self._host_lane if self._is_wrapped else self._fast_lane
        target = environ.get("RAW_URI") or environ.get("PATH_INFO") or "/"
        if lane is not None and lane.takes(target, environ.get("HTTP_HOST", "")):
            return self._endpoint(environ, start_response)
        _keep_spelling(environ)
        context.apply_prefix(environ, self.services.settings.server.trusted_proxies)
        return super().wsgi_app(environ, start_response)

    def takes(self, target: str, host: str) -> bool:
        """Whether a request goes past Flask, and so needs no more of its environment than the proxy's endpoint reads.

        The server layer asks before it makes the environment. A middleware gets the whole of it.
        """
        return self._fast_lane is not None and not self._is_wrapped and self._fast_lane.takes(target, host)

    def tell_lane(self) -> None:
        """Log that a middleware turns the fast lane off, where that is so."""
        if self._is_wrapped and self._fast_lane is not self._host_lane:
            wrapper = vars(self)["wsgi_app"]
            named = wrapper if hasattr(wrapper, "__qualname__") else type(wrapper)
            _log.info(
                "wsgi_app is wrapped by %s.%s: all requests go through it and through Flask, as with"
                " LLM_PROXY_FAST_LANE=false",
                named.__module__,
                named.__qualname__,
            )

    @property
    def _is_wrapped(self) -> bool:
        """Whether a middleware was put around `wsgi_app`, as Flask's documentation says and OpenTelemetry does.

        It wants to see requests as Flask does: the whole environment, and Flask's own hooks.
        """
        return "wsgi_app" in vars(self)

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Match routes without the wish to upgrade: the proxy refuses the wish itself."""
        adapter = super().create_url_adapter(request)
        if adapter is not None:
            adapter.websocket = False
        return adapter

    def handle_user_exception(self, e: Exception) -> ResponseReturnValue:
        """Leave a failed client to the server layer, on both lanes."""
        if isinstance(e, ClientConnectionError):
            raise e
        return super().handle_user_exception(e)

    def handle_exception(self, e: Exception) -> Any:
        """Do the same for what was raised outside a view."""
        if isinstance(e, ClientConnectionError):
            raise e
        return super().handle_exception(e)


def _keep_spelling(environ: Any) -> None:
    """Have other spellings of this program's own paths match no route: rules of an edge by prefix must hold.

    Flask takes `//manage` and `/%6danage` for `/manage`. The path stays as it was written wherever its first segment is
    empty or escaped.
    """
    path = str(environ.get("RAW_URI") or "/").partition("?")[0]
    if path.startswith("//") or "%" in path[1:].partition("/")[0]:
        environ["PATH_INFO"] = path.replace("//", "/%2F", 1)


_prepared: tuple[Loaded, LlmProxyFlask] | None = None


def prepare() -> None:
    """Wire, in the server's master, the application for workers that it forks with the settings of now.

    They share the memory of it. A worker with other settings, after a reload, wires its own.
    """
    global _prepared
    loaded = handed_over()
    if loaded is not None:
        _prepared = loaded, _wired(loaded)


def create_app(settings: Settings | None = None) -> LlmProxyFlask:
    """Wire an application. Never raises for settings, opens no database and starts nothing.

    Args:
        settings: Default: what the server's master has checked, else what the environment says.
    """
    global _prepared
    prepared, _prepared = _prepared, None  # each process has one application
    if settings is None and prepared is not None and prepared[0] is handed_over():
        return prepared[1]
    return _wired(Loaded(settings) if settings is not None else handed_over() or load())


def _wired(loaded: Loaded) -> LlmProxyFlask:
    settings = loaded.settings
    app = LlmProxyFlask("llm_proxy", static_folder=None)
    app.faults = list(loaded.faults)
    app.services = app.extensions["llm_proxy"] = Container(settings, errors.render)
    app.services.sources = loaded.sources
    app.services.findings.examine = lambda: _examined(loaded)
    app.hooks = WorkerLifecycle(app.services, serving=app.tell_lane)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.config["MAX_CONTENT_LENGTH"] = None
    proxy.exempt_from_merging(app)
    errors.register(app)
    context.register(app, lambda: app.services.access, settings.operation.metrics_path)
    _add_routes(app)
    register_commands(app)
    return app


def _examined(loaded: Loaded) -> list[dict[str, Any]]:
    from llm_proxy.cli.doctor.command import examine_running

    return examine_running(loaded)


def _add_routes(app: LlmProxyFlask) -> None:
    services, settings = app.services, app.services.settings
    prefixes, hosts = _mounts(app)
    app._endpoint = proxy.ProxyEndpoint(lambda: services.front, settings.server.trusted_proxies)
    app._fast_lane = app._host_lane = proxy.FastLane((), (), hosts) if hosts else None
    if settings.server.fast_lane:
        reserved = (*RESERVED_PATHS, settings.operation.metrics_path, settings.operation.admin_ui_path)
        app._fast_lane = proxy.FastLane(prefixes, reserved, hosts)
    app.register_blueprint(proxy.blueprint(app._endpoint, prefixes))
    app.register_blueprint(
        health.blueprint(
            services.readiness, settings.operation.metrics_path if settings.operation.enable_metrics else None
        )
    )
    app.register_blueprint(management.blueprint())
    measured.register(app, "management")
    if settings.operation.admin_ui_enabled:
        app.register_blueprint(admin.blueprint(settings.operation.admin_ui_path))


def _mounts(app: LlmProxyFlask) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Paths and hosts that belong to the proxy.

    A provider file that cannot be read is a fault of the start, not of this.
    """
    try:
        others = app.services.loaded_provider.others
        prefixes = (*mounts(app.services.provider), *(one.mount for one in others if one.mount))
        return prefixes, tuple(host for one in others for host in one.hosts)
    except ProviderFileError as exc:
        app.faults += exc.faults
        return (PROXY_PATH,), ()
