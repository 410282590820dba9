"""A project as requests see it."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ProjectSnapshot:
    """A project at the time of a read.

    Attributes:
        api_key: The default provider's key in clear; empty: none is stored; None: it does not open.
        provider_keys: The same of the providers beside it, where one is stored.
    """

    id: str
    is_active: bool
    api_key: str | None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_cost_nano_usd_per_month: int | None = None
    event_privacy: str = "full"
    provider_keys: Mapping[str, str | None] = field(default_factory=dict)

    def __repr__(self) -> str:  # never a key in a log or a traceback
        return f"ProjectSnapshot(id={self.id!r}, is_active={self.is_active})"
