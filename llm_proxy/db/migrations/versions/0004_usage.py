"""Usage by day, and the objects that are counted once."""

import sqlalchemy as sa

from llm_proxy.db.migrations.steps import create_index, create_table, drop_table
from llm_proxy.db.types import UtcTime, ascii_text, big_integer, exact_text

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

HOLDS = ("usage_daily", "usage_objects")
_COUNTS = ("requests", "prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")


def upgrade() -> None:
    """Two tables."""
    zero = sa.text("0")
    create_table(
        "usage_daily",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("project_id", ascii_text(36), nullable=False),
        sa.Column("token_id", ascii_text(36), nullable=False),
        sa.Column("model", exact_text(255), nullable=False),
        *(sa.Column(name, big_integer(), nullable=False, server_default=zero) for name in _COUNTS),
        sa.Column("cost_nano_usd", big_integer()),
        sa.Column("estimated", big_integer(), nullable=False, server_default=zero),
        sa.PrimaryKeyConstraint("day", "project_id", "token_id", "model", name="pk_usage_daily"),
    )
    create_index("idx_usage_daily_project_id_day", "usage_daily", ["project_id", "day"])
    create_table(
        "usage_objects",
        sa.Column("project_id", ascii_text(36), nullable=False),
        sa.Column("object_id", exact_text(255), nullable=False),
        sa.Column("counted_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "object_id", name="pk_usage_objects"),
    )
    create_index("idx_usage_objects_counted_at", "usage_objects", ["counted_at"])


def downgrade() -> None:
    """Without them."""
    drop_table("usage_objects")
    drop_table("usage_daily")
