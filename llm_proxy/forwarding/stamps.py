"""The fields that tell when an exchange passed each point."""

from dataclasses import dataclass
from time import time_ns

from llm_proxy.runtime.clock import rfc3339_us

_SECOND_NS = 1_000_000_000


@dataclass(slots=True)
class Stamps:
    """Instants of one exchange in nanoseconds since the epoch; 0 is: not reached."""

    received_ns: int
    sent_ns: int = 0  # the request began to leave for the provider
    answered_ns: int = 0  # the whole head of the answer was here

    def fields(self, final_ns: int | None = None) -> list[tuple[str, str]]:
        """The fields of an answer that came from the provider.

        `final_ns` is when the whole answer was here; None where the head leaves before that, which is the rule.
        """
        answered = rfc3339_us(self.answered_ns)
        remote_ns = max(0, self.answered_ns - self.sent_ns)
        return [
            ("X-Proxy-Received-At", rfc3339_us(self.received_ns)),
            ("X-Proxy-Sent-Backend-At", rfc3339_us(self.sent_ns)),
            ("X-Proxy-First-Response-At", answered),
            ("X-Proxy-Final-Response-At", answered if final_ns is None else rfc3339_us(final_ns)),
            ("X-UPSTREAM-REQUEST-START", str(self.sent_ns)),
            ("X-UPSTREAM-REQUEST-STOP", str(self.answered_ns if final_ns is None else final_ns)),
            ("X-LLM-Proxy-Remote-Duration", f"{remote_ns / _SECOND_NS:.6f}"),
            ("X-LLM-Proxy-Remote-Duration-Ms", str(remote_ns // 1_000_000)),
        ]

    def fields_of_stored(self) -> list[tuple[str, str]]:
        """The fields of an answer that was stored: all of it is here, now."""
        now = rfc3339_us(time_ns())
        return [
            ("X-Proxy-Received-At", rfc3339_us(self.received_ns)),
            ("X-Proxy-First-Response-At", now),
            ("X-Proxy-Final-Response-At", now),
        ]
