"""Responses to creations that carried an Idempotency-Key."""

import sqlalchemy as sa

from llm_proxy.db.migrations.steps import create_index, create_table, drop_table
from llm_proxy.db.types import UtcTime, ascii_fixed, ascii_text, long_text

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

HOLDS = ("idempotency_keys",)


def upgrade() -> None:
    """One table."""
    create_table(
        "idempotency_keys",
        sa.Column("path", ascii_text(128), nullable=False),
        sa.Column("key", ascii_text(255), nullable=False),
        sa.Column("body_sha256", ascii_fixed(64), nullable=False),
        sa.Column("status", sa.Integer()),
        sa.Column("answer", long_text()),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("path", "key", name="pk_idempotency_keys"),
    )
    create_index("idx_idempotency_keys_created_at", "idempotency_keys", ["created_at"])


def downgrade() -> None:
    """Without it."""
    drop_table("idempotency_keys")
