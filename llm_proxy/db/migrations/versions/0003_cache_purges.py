"""The numbered list of purges that all replicas apply."""

from functools import partial

import sqlalchemy as sa

from llm_proxy.db.migrations.steps import create_table, drop_tables, required
from llm_proxy.db.types import UtcTime, big_integer, long_text

revision, down_revision = "0003", "0002"

HOLDS = ("cache_purges",)


def upgrade() -> None:
    """One table."""
    create_table(
        "cache_purges",
        sa.Column("number", big_integer(), autoincrement=False, nullable=False),
        *required(scope=long_text(), created_at=UtcTime()),
        key=("number",),
    )


downgrade = partial(drop_tables, "cache_purges")
