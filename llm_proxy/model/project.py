"""A project as requests see it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProjectSnapshot:
    """A project at the time of a read. `api_key` is the provider's key in clear, None when there is none that opens."""

    id: str
    is_active: bool
    api_key: str | None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_cost_nano_usd_per_month: int | None = None
    event_privacy: str = "full"

    def __repr__(self) -> str:  # never a key in a log or a traceback
        return f"ProjectSnapshot(id={self.id!r}, is_active={self.is_active})"
