"""The one settings object, put together from its parts."""

import re
from dataclasses import dataclass, fields

from llm_proxy.settings.declare import Variable
from llm_proxy.settings.events import DispatcherSettings, EventSettings
from llm_proxy.settings.limits import CacheSettings, LimitSettings, RedisSettings
from llm_proxy.settings.operation import CommandSettings, OperationSettings
from llm_proxy.settings.server import ServerSettings, UpstreamSettings
from llm_proxy.settings.sign_in import SignInSettings
from llm_proxy.settings.storage import StorageSettings, TokenSettings
from llm_proxy.settings.websocket import WebSocketSettings

PARTS = (
    ServerSettings,
    UpstreamSettings,
    WebSocketSettings,
    StorageSettings,
    TokenSettings,
    LimitSettings,
    CacheSettings,
    RedisSettings,
    EventSettings,
    DispatcherSettings,
    OperationSettings,
    SignInSettings,
    CommandSettings,
)


@dataclass(frozen=True, kw_only=True)
class Settings(
    ServerSettings,
    UpstreamSettings,
    WebSocketSettings,
    StorageSettings,
    TokenSettings,
    LimitSettings,
    CacheSettings,
    RedisSettings,
    EventSettings,
    DispatcherSettings,
    OperationSettings,
    SignInSettings,
    CommandSettings,
):
    """All settings. Attribute names are the variables' in lower case with their unit; `None` means unset."""

    @property
    def ws_message_limit_bytes(self) -> int:
        """Longest message of a WebSocket: WS_MAX_MESSAGE, else MAX_INSPECTED_BODY."""
        return self.ws_max_message_bytes or self.max_inspected_body_bytes

    @property
    def driver(self) -> str:
        """`sqlite`, `postgres` or `mysql`, after DATABASE_URL had its say."""
        if self.db_driver is not None:
            return self.db_driver
        if self.database_url is None:
            return "sqlite"
        return "postgres" if re.match(r"postgres|[a-z_]+\s*=", self.database_url) else "mysql"

    @property
    def workers(self) -> int:
        """Worker processes: WEB_CONCURRENCY, else 1 with SQLite or the in-memory bus and 2 otherwise."""
        if self.web_concurrency is not None:
            return self.web_concurrency
        return 1 if self.driver == "sqlite" or self.event_bus == "in-memory" else 2


def variables() -> dict[str, Variable]:
    """Attribute name → declaration, part by part."""
    return {f.name: f.metadata["variable"] for part in PARTS for f in fields(part)}
