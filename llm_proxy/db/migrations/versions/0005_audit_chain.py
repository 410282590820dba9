"""Where each chain of audit records ends, and what was taken off its head."""

import sqlalchemy as sa
from alembic import op

from llm_proxy.db.migrations.steps import create_table, drop_tables, required
from llm_proxy.db.types import UtcTime, ascii_fixed, ascii_text, big_integer, exact_text

revision, down_revision = "0005", "0004"

HOLDS = ("audit_writers", "audit_files")
_CHAIN = ("writer", "seq", "prev_hash", "hash")


def upgrade() -> None:
    """Two tables: the writers of the table, and those of files."""
    create_table(
        "audit_writers",
        *required(writer=ascii_text(36), last_seq=big_integer(), last_hash=ascii_fixed(64)),
        *required(removed_seq=big_integer(), removed_hash=ascii_fixed(64)),
        key=("writer",),
    )
    create_table(
        "audit_files",
        *required(writer=ascii_text(36), place=exact_text(255), last_seq=big_integer()),
        *required(last_hash=ascii_fixed(64), updated_at=UtcTime()),
        key=("writer",),
        indexes=(("updated_at",),),
    )


def downgrade() -> None:
    """Without them; the records stay, as records from before the chain."""
    events = sa.table("audit_events", *(sa.column(name) for name in _CHAIN))
    op.get_bind().execute(events.update().where(events.c.writer.is_not(None)).values(dict.fromkeys(_CHAIN)))
    drop_tables("audit_files", "audit_writers")
