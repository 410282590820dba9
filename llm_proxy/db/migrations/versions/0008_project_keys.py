"""Keys of projects for providers beside the default one, and the providers that a token is good for."""

import sqlalchemy as sa

from llm_proxy.db.migrations.steps import add_column, create_table, drop_column, drop_tables, required
from llm_proxy.db.types import UtcTime, ascii_text, exact_text, long_text

revision, down_revision = "0008", "0007"

HOLDS = ("project_keys", "tokens.providers")


def upgrade() -> None:
    """Add a table and a column; `projects.api_key` stays the default provider's."""
    create_table(
        "project_keys",
        *required(id=ascii_text(36), project_id=ascii_text(36), provider=exact_text(255)),
        *required(api_key=long_text(), created_at=UtcTime(), updated_at=UtcTime()),
        sa.UniqueConstraint("project_id", "provider", name="uq_project_keys_project_id_provider"),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name="fk_project_keys_project_id_projects", ondelete="CASCADE"
        ),
        key=("id",),
    )
    add_column("tokens", sa.Column("providers", long_text()))


def downgrade() -> None:
    """Without them."""
    drop_column("tokens", "providers")
    drop_tables("project_keys")
