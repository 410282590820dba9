"""Usage in the order of tokens."""

from llm_proxy.db.migrations.steps import create_index, drop_index

revision, down_revision = "0012", "0011"

HOLDS = ()

_NAME = "idx_usage_daily_token_id_day"


def upgrade() -> None:
    """Create the index."""
    create_index(_NAME, "usage_daily", ["token_id", "day"])


def downgrade() -> None:
    """Drop it."""
    drop_index(_NAME, "usage_daily")
