"""Usage by day, and the objects that are counted once."""

from functools import partial

import sqlalchemy as sa

from llm_proxy.db.migrations.steps import counts, create_table, drop_tables, optional, required
from llm_proxy.db.types import UtcTime, ascii_text, big_integer, exact_text

revision, down_revision = "0004", "0003"

HOLDS = ("usage_daily", "usage_objects")
_COUNTS = ("requests", "prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")


def upgrade() -> None:
    """Two tables."""
    create_table(
        "usage_daily",
        *required(day=sa.Date(), project_id=ascii_text(36), token_id=ascii_text(36), model=exact_text(255)),
        *counts(*_COUNTS),
        *optional(cost_nano_usd=big_integer()),
        *counts("estimated"),
        key=("day", "project_id", "token_id", "model"),
        indexes=(("project_id", "day"),),
    )
    create_table(
        "usage_objects",
        *required(project_id=ascii_text(36), object_id=exact_text(255), counted_at=UtcTime()),
        key=("project_id", "object_id"),
        indexes=(("counted_at",),),
    )


downgrade = partial(drop_tables, "usage_objects", "usage_daily")
