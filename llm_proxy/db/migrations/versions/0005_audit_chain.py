"""Where each chain of audit records ends, and what was taken off its head."""

import sqlalchemy as sa
from alembic import op

from llm_proxy.db.migrations.steps import create_index, create_table, drop_table
from llm_proxy.db.types import UtcTime, ascii_fixed, ascii_text, big_integer, exact_text

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

HOLDS = ("audit_writers", "audit_files")
_CHAIN = ("writer", "seq", "prev_hash", "hash")


def upgrade() -> None:
    """Two tables: the writers of the table, and those of files."""
    create_table(
        "audit_writers",
        sa.Column("writer", ascii_text(36), nullable=False),
        sa.Column("last_seq", big_integer(), nullable=False),
        sa.Column("last_hash", ascii_fixed(64), nullable=False),
        sa.Column("removed_seq", big_integer(), nullable=False),
        sa.Column("removed_hash", ascii_fixed(64), nullable=False),
        sa.PrimaryKeyConstraint("writer", name="pk_audit_writers"),
    )
    create_table(
        "audit_files",
        sa.Column("writer", ascii_text(36), nullable=False),
        sa.Column("place", exact_text(255), nullable=False),
        sa.Column("last_seq", big_integer(), nullable=False),
        sa.Column("last_hash", ascii_fixed(64), nullable=False),
        sa.Column("updated_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("writer", name="pk_audit_files"),
    )
    create_index("idx_audit_files_updated_at", "audit_files", ["updated_at"])


def downgrade() -> None:
    """Without them; the records stay, as records from before the chain."""
    events = sa.table("audit_events", *(sa.column(name) for name in _CHAIN))
    op.get_bind().execute(events.update().where(events.c.writer.is_not(None)).values(dict.fromkeys(_CHAIN)))
    drop_table("audit_files")
    drop_table("audit_writers")
