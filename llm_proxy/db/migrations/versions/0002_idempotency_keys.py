"""Responses to creations that carried an Idempotency-Key."""

from functools import partial

import sqlalchemy as sa

from llm_proxy.db.migrations.steps import create_table, drop_tables, optional, required
from llm_proxy.db.types import UtcTime, ascii_fixed, ascii_text, long_text

revision, down_revision = "0002", "0001"

HOLDS = ("idempotency_keys",)


def upgrade() -> None:
    """One table."""
    create_table(
        "idempotency_keys",
        *required(path=ascii_text(128), key=ascii_text(255), body_sha256=ascii_fixed(64)),
        *optional(status=sa.Integer(), answer=long_text()),
        *required(created_at=UtcTime()),
        key=("path", "key"),
        indexes=(("created_at",),),
    )


downgrade = partial(drop_tables, "idempotency_keys")
