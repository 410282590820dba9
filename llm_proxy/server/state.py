"""What a worker tells its application about the server."""

from dataclasses import dataclass, field
from typing import Literal, Self

from llm_proxy.settings import Settings

Phase = Literal["serving", "grace", "draining", "retired"]


@dataclass(slots=True)
class ServerState:
    """One a worker process; the application keeps a reference and reads `phase` when it wants to know.

    `grace`: SIGTERM was seen, the listener is still open. `draining`: the listener is closed, running exchanges finish.
    `retired`: a newer generation serves, this one only finishes; it is as ready as before.
    """

    worker_connections: int
    workers: int
    phase: Phase = field(default="serving")


@dataclass(frozen=True, slots=True)
class Limits:
    """Time limits of client connections and of the drain, in seconds; None = none."""

    keepalive_s: float = 75.0
    head_s: float = 10.0
    body_silence_s: float | None = 60.0
    write_silence_s: float | None = 300.0
    grace_s: float = 0.0
    drain_s: float = 120.0

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """As the settings say; 0 means none where a limit may be off."""
        return cls(
            keepalive_s=settings.server.keepalive_timeout_s,
            head_s=settings.server.request_header_timeout_s,
            body_silence_s=settings.server.request_body_timeout_s or None,
            write_silence_s=settings.server.client_write_timeout_s or None,
            grace_s=settings.server.shutdown_grace_s,
            drain_s=settings.server.drain_timeout_s,
        )
