"""Traffic by hour: requests, errors, cache, latency, model tokens and money."""

import sqlalchemy as sa

from llm_proxy.db.migrations.steps import create_index, create_table, drop_table
from llm_proxy.db.types import UtcTime, ascii_text, big_integer

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

HOLDS = ("traffic_hourly",)
_COUNTS = (
    "requests", "errors", "refused", "cache_hits", "cache_misses", "prompt_tokens", "completion_tokens",
    "cost_nano_usd",
)  # fmt: skip
_CLASSES = [f"{name}_{number}" for name in ("first_byte", "duration") for number in range(10)]


def upgrade() -> None:
    """Create a table."""
    zero = sa.text("0")
    create_table(
        "traffic_hourly",
        sa.Column("project_id", ascii_text(36), nullable=False),
        sa.Column("hour", UtcTime(), nullable=False),
        *(sa.Column(name, big_integer(), nullable=False, server_default=zero) for name in (*_COUNTS, *_CLASSES)),
        sa.PrimaryKeyConstraint("project_id", "hour", name="pk_traffic_hourly"),
    )
    create_index("idx_traffic_hourly_hour", "traffic_hourly", ["hour"])


def downgrade() -> None:
    """Drop it."""
    drop_table("traffic_hourly")
