"""The one settings object: an object a part (docs/adr/0220-settings-are-one-object-of-parts.md)."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from operator import attrgetter
from typing import Any, Self

from llm_proxy.settings.events import DispatcherSettings, EventSettings
from llm_proxy.settings.limits import CacheSettings, LimitSettings, RedisSettings
from llm_proxy.settings.operation import CommandSettings, OperationSettings
from llm_proxy.settings.server import ServerSettings, UpstreamSettings
from llm_proxy.settings.sign_in import SignInSettings
from llm_proxy.settings.storage import StorageSettings, TokenSettings
from llm_proxy.settings.variable import Variable
from llm_proxy.settings.websocket import WebSocketSettings


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings, by part. Names of values carry their unit; `None` means unset.

    A path such as `dispatcher.timeout_s` names one value where the code does not: in `variables` and `from_paths`.
    """

    server: ServerSettings = ServerSettings()
    upstream: UpstreamSettings = UpstreamSettings()
    websocket: WebSocketSettings = WebSocketSettings()
    storage: StorageSettings = StorageSettings()
    tokens: TokenSettings = TokenSettings()
    limits: LimitSettings = LimitSettings()
    cache: CacheSettings = CacheSettings()
    redis: RedisSettings = RedisSettings()
    events: EventSettings = EventSettings()
    dispatcher: DispatcherSettings = DispatcherSettings()
    operation: OperationSettings = OperationSettings()
    sign_in: SignInSettings = SignInSettings()
    commands: CommandSettings = CommandSettings()

    @classmethod
    def from_paths(cls, values: Mapping[str, Any]) -> Self:
        """Return the settings with these values by path, the others at their defaults."""
        parts: dict[str, dict[str, Any]] = defaultdict(dict)
        for path, value in values.items():
            part, name = path.split(".")
            parts[part][name] = value
        return cls(**{part: PARTS[part](**named) for part, named in parts.items()})

    def value(self, path: str) -> Any:
        """Return the value at `path`."""
        return attrgetter(path)(self)

    @property
    def ws_message_limit_bytes(self) -> int:
        """Longest message of a WebSocket: WS_MAX_MESSAGE, else MAX_INSPECTED_BODY."""
        return self.websocket.max_message_bytes or self.server.max_inspected_body_bytes

    @property
    def workers(self) -> int:
        """Worker processes: WEB_CONCURRENCY, else 1 with SQLite or the in-memory bus and 2 otherwise."""
        if self.server.web_concurrency is not None:
            return self.server.web_concurrency
        return 1 if self.storage.driver == "sqlite" or self.events.bus == "in-memory" else 2


PARTS: dict[str, type] = {part.name: type(part.default) for part in fields(Settings)}


@cache
def variables() -> dict[str, Variable]:
    """Return path → declaration, part by part."""
    return {f"{name}.{f.name}": f.metadata["variable"] for name, part in PARTS.items() for f in fields(part)}
