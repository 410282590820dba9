"""When an exchange passed each point, and the response fields that tell it."""

from dataclasses import dataclass
from time import monotonic, time_ns

from llm_proxy.runtime.clock import rfc3339_us

_SECOND_NS = 1_000_000_000


@dataclass(slots=True)
class Timing:
    """Instants of one exchange: `_ns` in nanoseconds since the epoch, `_s` on the monotonic clock; 0: not reached."""

    received_ns: int
    sent_ns: int = 0  # the request began to leave for the provider
    response_started_ns: int = 0  # the whole header section of the response was here
    sent_s: float = 0.0
    response_started_s: float = 0.0
    ended_s: float = 0.0

    def sent(self) -> None:
        """Note that the request begins to leave for the provider."""
        self.sent_s = monotonic()
        self.sent_ns = time_ns()

    def response_started(self) -> None:
        """Note that the whole header section of the response is here."""
        self.response_started_s = monotonic()
        self.response_started_ns = time_ns()

    def fields(self, final_ns: int | None = None) -> list[tuple[str, str]]:
        """Return the fields of a response that came from the provider.

        `final_ns` is when the whole response was here; None where its header section leaves before that, as usual.
        """
        response_started = rfc3339_us(self.response_started_ns)
        remote_ns = max(0, self.response_started_ns - self.sent_ns)
        return [
            ("X-Proxy-Received-At", rfc3339_us(self.received_ns)),
            ("X-Proxy-Sent-Backend-At", rfc3339_us(self.sent_ns)),
            ("X-Proxy-First-Response-At", response_started),
            ("X-Proxy-Final-Response-At", response_started if final_ns is None else rfc3339_us(final_ns)),
            ("X-UPSTREAM-REQUEST-START", str(self.sent_ns)),
            ("X-UPSTREAM-REQUEST-STOP", str(self.response_started_ns if final_ns is None else final_ns)),
            ("X-LLM-Proxy-Remote-Duration", f"{remote_ns / _SECOND_NS:.6f}"),
            ("X-LLM-Proxy-Remote-Duration-Ms", str(remote_ns // 1_000_000)),
        ]

    def fields_of_stored(self) -> list[tuple[str, str]]:
        """Return the fields of a stored response: all of it is here, now."""
        now = rfc3339_us(time_ns())
        return [
            ("X-Proxy-Received-At", rfc3339_us(self.received_ns)),
            ("X-Proxy-First-Response-At", now),
            ("X-Proxy-Final-Response-At", now),
        ]
