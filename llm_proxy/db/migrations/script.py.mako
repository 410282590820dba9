"""${message}"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from llm_proxy.db.migrations import steps

revision: str = ${repr(up_revision)}
down_revision: str | None = ${repr(down_revision)}
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

HOLDS: tuple[str, ...] = ()  # tables, and columns as table.column, that `downgrade` drops


def upgrade() -> None:
    """One release must go on working with it (docs/how-to/upgrade.md)."""
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    """Back to the revision before."""
    ${downgrades if downgrades else "pass"}
