"""The table of what callers may write of a token, and the attributes of those fields that requests obey.

`model.token` loads the database's library; commands, which must start fast, import this module alone.
"""

from dataclasses import dataclass

from llm_proxy.model.fields import Field, FlatObject, Money, ProviderNames, Quota, Text, Whole
from llm_proxy.money import MAX_MODEL_TOKENS

MAX_IDLE_MINUTES = 525_600
MAX_REQUESTS = Quota()

# The order is that of JSON, of options and of checks.
TOKEN_FIELDS = (
    Field("max_requests", MAX_REQUESTS, "Requests in all; 0 or none = no limit.", is_enforced=True, has_option=False),
    Field("name", Text(255), "A name for people."),
    Field("description", Text(1024), "What it is for; shown to people only."),
    Field("metadata", FlatObject(), "A flat object."),
    Field("providers", ProviderNames(), "Providers that it is good for, comma-separated.", is_enforced=True),
    Field("idle_timeout_minutes", Whole(MAX_IDLE_MINUTES), "Withers when unused for so long.", is_enforced=True),
    Field("requests_per_minute", Whole(), "Requests a minute.", is_enforced=True),
    Field("tokens_per_minute", Whole(), "Model tokens a minute.", is_enforced=True),
    Field("max_total_tokens", Whole(MAX_MODEL_TOKENS), "Budget in model tokens.", is_enforced=True),
    Field("max_cost_usd", Money(), "Budget in money.", is_enforced=True, column="max_cost_nano_usd"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnforcedFields:
    """The attributes of the fields that requests obey. None = no limit.

    Attributes:
        max_requests: The quota of requests.
        providers: Names of the providers that it is good for.
    """

    max_requests: int | None
    providers: tuple[str, ...] | None = None
    idle_timeout_minutes: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_total_tokens: int | None = None
    max_cost_nano_usd: int | None = None
