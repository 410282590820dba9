"""A project as requests see it, and the table of what callers may write of one beside its name, key and state."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from llm_proxy.model.fields import Choice, Field, Money, Whole

EVENT_PRIVACY = Choice(("full", "metadata", "off"))

# The order is that of JSON, of options and of checks.
PROJECT_FIELDS = (
    Field("event_privacy", EVENT_PRIVACY, "What events hold of its requests.", is_enforced=True),
    Field("requests_per_minute", Whole(), "Requests a minute.", is_enforced=True),
    Field("tokens_per_minute", Whole(), "Model tokens a minute.", is_enforced=True),
    Field(
        "max_cost_usd_per_month",
        Money(),
        "Budget of a calendar month.",
        is_enforced=True,
        column="max_cost_nano_usd_per_month",
    ),
)


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
