"""The management API inside this process, on the configured database (MP-131): no server, no management token."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from flask import current_app

from llm_proxy.cli.errors import CommandError
from llm_proxy.cli.management_client import Query, result
from llm_proxy.db import migrate
from llm_proxy.db.engine import create_engine
from llm_proxy.db.errors import DatabaseFault
from llm_proxy.settings import Settings

if TYPE_CHECKING:
    from flask import Flask

ACTOR = "llm_proxy.actor"  # environ key that no request from outside can carry: authenticated here, audited as this


class DirectClient:
    """Calls the application's own views; the audit's actor is `cli`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        try:
            engine = create_engine(settings)
            migrate.require_current(engine)
            engine.dispose()
        except DatabaseFault as fault:
            raise CommandError(str(fault)) from fault
        self._app: Flask = current_app._get_current_object() if current_app else _make(settings)  # type: ignore[attr-defined]

    def call(self, method: str, path: str, *, body: Any = None, query: Query | None = None) -> Any:
        """See ManagementClient."""
        if path == "/manage/cache/purge" and self._settings.http_cache_backend != "redis":
            raise CommandError("the cache lives in the servers: give --manage-api-base-url")
        params = {name: str(value) for name, value in (query or {}).items() if value is not None}
        answer = self._app.test_client().open(
            path, method=method, json=body, query_string=params, environ_overrides={ACTOR: "cli"}
        )
        return result(answer.status_code, answer.get_data())


def _make(settings: Settings) -> "Flask":
    """The application, for the door that does not come with one."""
    app: Flask = import_module("llm_proxy.app").create_app(settings)  # by name: app.py itself registers these commands
    return app
