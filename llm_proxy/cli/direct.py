"""The management API inside this process, on the configured database: no server, no management token."""

import logging
import sys
from importlib import import_module
from typing import Any, Self

from flask import Flask, current_app

from llm_proxy import __version__, logs
from llm_proxy.cli.errors import CommandError
from llm_proxy.cli.management_results import Query, result
from llm_proxy.container import Container
from llm_proxy.db import migrate
from llm_proxy.db.engine import create_engine
from llm_proxy.db.errors import DatabaseFault
from llm_proxy.settings import Settings

_INSIDE = {"llm_proxy.actor": "cli"}  # environ of a call made in this process: let in, and audited as `cli`
_HEADERS = {"User-Agent": f"llm-proxy/{__version__}"}


class DirectClient:
    """Calls the application's own views; the audit's actor is `cli`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        try:
            logs.configure(settings, stream=sys.stderr)
        except OSError as exc:
            raise CommandError(f"LOG_FILE={settings.operation.log_file}: {exc.strerror}") from exc
        if settings.operation.log_file is None and settings.operation.log_level != "debug":
            logging.disable(logging.CRITICAL)  # what goes wrong is the command's one line
        try:
            engine = create_engine(settings.storage)
            migrate.require_current(engine)
            engine.dispose()
        except DatabaseFault as fault:
            raise CommandError(str(fault)) from fault
        self._app: Flask = current_app._get_current_object() if current_app else _make(settings)  # type: ignore[attr-defined]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.services.stop()

    @property
    def services(self) -> Container:
        """The application's parts."""
        services: Container = self._app.extensions["llm_proxy"]
        return services

    def call(self, method: str, path: str, *, body: Any = None, query: Query | None = None) -> Any:
        """See ManagementClient."""
        if path == "/manage/cache/purge" and self._settings.cache.backend != "redis":
            raise CommandError("the cache lives in the servers: give --manage-api-base-url")
        params = {name: str(value) for name, value in (query or {}).items() if value is not None}
        response = self._app.test_client().open(
            path, method=method, json=body, query_string=params, headers=_HEADERS, environ_overrides=_INSIDE
        )
        return result(response.status_code, response.get_data())


def _make(settings: Settings) -> Flask:
    """Return the application, for an entry point that does not come with one."""
    app: Flask = import_module("llm_proxy.app").create_app(settings)  # by name: app.py itself registers these commands
    return app
