"""Traffic by hour: requests, errors, cache, latency, model tokens and money."""

from functools import partial

from llm_proxy.db.migrations.steps import counts, create_table, drop_tables, required
from llm_proxy.db.types import UtcTime, ascii_text

revision, down_revision = "0011", "0010"

HOLDS = ("traffic_hourly",)
_COUNTS = (
    "requests", "errors", "refused", "cache_hits", "cache_misses", "prompt_tokens", "completion_tokens",
    "cost_nano_usd",
)  # fmt: skip
_CLASSES = [f"{name}_{number}" for name in ("first_byte", "duration") for number in range(10)]


def upgrade() -> None:
    """Create a table."""
    create_table(
        "traffic_hourly",
        *required(project_id=ascii_text(36), hour=UtcTime()),
        *counts(*_COUNTS, *_CLASSES),
        key=("project_id", "hour"),
        indexes=(("hour",),),
    )


downgrade = partial(drop_tables, "traffic_hourly")
