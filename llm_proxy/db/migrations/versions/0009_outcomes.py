"""How requests ended by hour, and the last refusals of tokens."""

import sqlalchemy as sa

from llm_proxy.db.migrations.steps import create_index, create_table, drop_table
from llm_proxy.db.types import UtcTime, ascii_text, big_integer

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

HOLDS = ("outcomes_hourly", "token_refusals")


def upgrade() -> None:
    """Create two tables."""
    zero = sa.text("0")
    create_table(
        "outcomes_hourly",
        sa.Column("hour", UtcTime(), nullable=False),
        sa.Column("project_id", ascii_text(36), nullable=False),
        sa.Column("token_id", ascii_text(36), nullable=False),
        sa.Column("code", ascii_text(64), nullable=False),
        sa.Column("requests", big_integer(), nullable=False, server_default=zero),
        sa.PrimaryKeyConstraint("hour", "project_id", "token_id", "code", name="pk_outcomes_hourly"),
    )
    create_index("idx_outcomes_hourly_token_id_hour", "outcomes_hourly", ["token_id", "hour"])
    create_index("idx_outcomes_hourly_project_id_hour", "outcomes_hourly", ["project_id", "hour"])
    create_table(
        "token_refusals",
        sa.Column("token_id", ascii_text(36), nullable=False),
        sa.Column("code", ascii_text(64), nullable=False),
        sa.Column("project_id", ascii_text(36), nullable=False),
        sa.Column("refused_at", UtcTime(), nullable=False),
        sa.Column("request_id", ascii_text(128)),
        sa.Column("refusals", big_integer(), nullable=False, server_default=zero),
        sa.PrimaryKeyConstraint("token_id", "code", name="pk_token_refusals"),
    )
    create_index("idx_token_refusals_refused_at", "token_refusals", ["refused_at"])


def downgrade() -> None:
    """Drop them."""
    drop_table("token_refusals")
    drop_table("outcomes_hourly")
