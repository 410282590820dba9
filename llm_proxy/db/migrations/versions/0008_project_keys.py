"""Keys of projects for providers beside the default one, and the providers that a token is good for."""

import sqlalchemy as sa

from llm_proxy.db.migrations.steps import add_column, create_table, drop_column, drop_table
from llm_proxy.db.types import UtcTime, ascii_text, exact_text, long_text

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

HOLDS = ("project_keys", "tokens.providers")


def upgrade() -> None:
    """Add a table and a column; `projects.api_key` stays the default provider's."""
    create_table(
        "project_keys",
        sa.Column("id", ascii_text(36), nullable=False),
        sa.Column("project_id", ascii_text(36), nullable=False),
        sa.Column("provider", exact_text(255), nullable=False),
        sa.Column("api_key", long_text(), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("updated_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_project_keys"),
        sa.UniqueConstraint("project_id", "provider", name="uq_project_keys_project_id_provider"),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name="fk_project_keys_project_id_projects", ondelete="CASCADE"
        ),
    )
    add_column("tokens", sa.Column("providers", long_text()))


def downgrade() -> None:
    """Without them."""
    drop_column("tokens", "providers")
    drop_table("project_keys")
