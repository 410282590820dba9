"""The numbered list of purges that all replicas apply."""

import sqlalchemy as sa

from llm_proxy.db.migrations.steps import create_table, drop_table
from llm_proxy.db.types import UtcTime, big_integer, long_text

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

HOLDS = ("cache_purges",)


def upgrade() -> None:
    """One table."""
    create_table(
        "cache_purges",
        sa.Column("number", big_integer(), autoincrement=False, nullable=False),
        sa.Column("scope", long_text(), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_cache_purges"),
    )


def downgrade() -> None:
    """Without it."""
    drop_table("cache_purges")
