"""A token's description."""

import sqlalchemy as sa

from llm_proxy.db.migrations.steps import add_column, drop_column
from llm_proxy.db.types import long_text

revision, down_revision = "0010", "0009"

HOLDS = ("tokens.description",)


def upgrade() -> None:
    """Add the column."""
    add_column("tokens", sa.Column("description", long_text()))


def downgrade() -> None:
    """Drop it."""
    drop_column("tokens", "description")
