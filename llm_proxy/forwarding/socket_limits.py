"""Bounds of one WebSocket, and when its time is over."""

from dataclasses import dataclass

from llm_proxy.websocket import frames


@dataclass(frozen=True, slots=True)
class SocketLimits:
    """Bounds of one WebSocket. `ping_s` 0: no pings."""

    idle_s: float = 600.0
    age_s: float = 3900.0
    message_bytes: int = 32 * 1024 * 1024
    ping_s: float = 0.0

    def late(self, now: float, opened_s: float, moved_s: float, *, is_running: bool) -> tuple[int, str] | None:
        """Return why its time is over, as close code and reason; None while it is not.

        A turn that runs may end before age closes it.
        """
        if now - moved_s >= self.idle_s:
            return frames.GOING_AWAY, "idle_timeout"
        if now - opened_s >= self.age_s and not is_running:
            return frames.GOING_AWAY, "max_age"
        return None
