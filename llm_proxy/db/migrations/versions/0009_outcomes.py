"""How requests ended by hour, and the last refusals of tokens."""

from functools import partial

from llm_proxy.db.migrations.steps import counts, create_table, drop_tables, optional, required
from llm_proxy.db.types import UtcTime, ascii_text

revision, down_revision = "0009", "0008"

HOLDS = ("outcomes_hourly", "token_refusals")


def upgrade() -> None:
    """Create two tables."""
    create_table(
        "outcomes_hourly",
        *required(hour=UtcTime(), project_id=ascii_text(36), token_id=ascii_text(36), code=ascii_text(64)),
        *counts("requests"),
        key=("hour", "project_id", "token_id", "code"),
        indexes=(("token_id", "hour"), ("project_id", "hour")),
    )
    create_table(
        "token_refusals",
        *required(token_id=ascii_text(36), code=ascii_text(64), project_id=ascii_text(36), refused_at=UtcTime()),
        *optional(request_id=ascii_text(128)),
        *counts("refusals"),
        key=("token_id", "code"),
        indexes=(("refused_at",),),
    )


downgrade = partial(drop_tables, "token_refusals", "outcomes_hourly")
