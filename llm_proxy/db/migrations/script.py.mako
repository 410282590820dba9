"""${message}"""

import sqlalchemy as sa
from alembic import op

from llm_proxy.db.migrations import steps

revision, down_revision = ${repr(up_revision)}, ${repr(down_revision)}

HOLDS: tuple[str, ...] = ()  # tables, and columns as table.column, that `downgrade` drops


def upgrade() -> None:
    """One release must go on working with it (docs/how-to/upgrade.md)."""
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    """Back to the revision before."""
    ${downgrades if downgrades else "pass"}
