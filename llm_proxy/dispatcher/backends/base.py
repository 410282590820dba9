"""What a back end is: it takes payloads and says of each what became of it."""

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from llm_proxy.dispatcher.payload import Payload


class Verdict(enum.Enum):
    """What became of one event."""

    DELIVERED = "delivered"
    TRANSIENT = "transient"  # network, timeout, 408, 425, 429, 5xx: the same again may work
    PERMANENT = "permanent"  # 400, 413, 415, 422: this event will never be taken
    CONFIGURATION = "configuration"  # 401, 402, 403, 404, 3xx: no event will be, until an operator corrects it


@dataclass(frozen=True, slots=True)
class Result:
    """One event's verdict.

    Args:
        error: For logs and dead letters: a status, a class of error; never a payload.
        retry_after_s: What the back end asked for.
        is_whole: The verdict is about the call, not about this event: PERMANENT then means that one of them is bad.
        is_tried: False when the call was not made, because those before it failed.
        is_own_fault: The back end is known to fail in this way on malformed events: after all tries it is given up
            alone, where others were taken.
    """

    verdict: Verdict
    error: str = ""
    retry_after_s: float | None = None
    is_whole: bool = False
    is_tried: bool = True
    is_own_fault: bool = False


DELIVERED = Result(Verdict.DELIVERED)


class BackendError(Exception):
    """A back end that cannot start with this configuration; worded for the user, without a secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendConfig:
    """What a back end is made with. `progress` is to be called after each call that took time."""

    endpoint: str
    api_key: str | None = None
    timeout_s: float = 30.0
    concurrency: int = 4
    batch_size: int = 100
    file_max_bytes: int = 0
    progress: Callable[[], None] = lambda: None


class Backend(Protocol):
    """A back end. `__init__` raises BackendError; `send` never raises."""

    default_endpoint: ClassVar[str]
    needs_key: ClassVar[bool]
    is_http: ClassVar[bool]

    def __init__(self, config: BackendConfig) -> None: ...

    def send(self, payloads: Sequence[Payload]) -> list[Result]:
        """Deliver in order; one result a payload, in the same order. No payloads, no call."""

    def reopen(self) -> None:
        """SIGHUP: release files that were moved."""

    def close(self) -> None:
        """Release everything. Safe to call twice."""
