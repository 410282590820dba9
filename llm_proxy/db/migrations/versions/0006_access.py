"""Management keys, sessions with an actor and a role, and the actor of what is created."""

import sqlalchemy as sa
from alembic import op

from llm_proxy.db.migrations.steps import add_column, create_index, create_table, drop_column, drop_table
from llm_proxy.db.types import UtcTime, ascii_fixed, ascii_text, exact_text, long_text

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

HOLDS = ("management_keys", "projects.created_by", "tokens.created_by")
_ROLE = "role IN ('issuer','viewer','operator','admin')"
_ACTORS = (("projects", "created_by"), ("tokens", "created_by"), ("idempotency_keys", "actor"))


def upgrade() -> None:
    """Three tables, three columns, and room for longer actors."""
    _keys()
    _sessions()
    _sign_ins()
    for table, name in _ACTORS:
        add_column(table, sa.Column(name, exact_text(255)))
    if op.get_bind().dialect.name != "sqlite":  # SQLite bounds no text
        op.alter_column("audit_events", "actor", type_=exact_text(255), existing_type=exact_text(64), nullable=False)


def downgrade() -> None:
    """Without them; the actor of audit records stays wide, because records that need it may be there."""
    for table, name in _ACTORS:
        drop_column(table, name)
    for table in ("admin_sign_ins", "admin_sessions", "management_keys"):
        drop_table(table)
    create_table(
        "admin_sessions",
        sa.Column("id_hash", ascii_fixed(64), nullable=False),
        sa.Column("token_fingerprint", ascii_fixed(64), nullable=False),
        sa.Column("csrf_hash", ascii_fixed(64), nullable=False),
        sa.Column("remember", sa.Boolean(), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("last_seen_at", UtcTime(), nullable=False),
        sa.Column("expires_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("id_hash", name="pk_admin_sessions"),
    )
    create_index("idx_admin_sessions_expires_at", "admin_sessions", ["expires_at"])


def _keys() -> None:
    create_table(
        "management_keys",
        sa.Column("id", ascii_text(36), nullable=False),
        sa.Column("name", exact_text(255), nullable=False),
        sa.Column("secret_hash", ascii_fixed(64), nullable=False),
        sa.Column("previous_hash", ascii_fixed(64)),
        sa.Column("previous_until", UtcTime()),
        sa.Column("role", ascii_text(16), nullable=False),
        sa.Column("projects", long_text()),
        sa.Column("expires_at", UtcTime()),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("created_by", exact_text(255), nullable=False),
        sa.Column("last_used_at", UtcTime()),
        sa.PrimaryKeyConstraint("id", name="pk_management_keys"),
        sa.UniqueConstraint("name", name="uq_management_keys_name"),
        sa.UniqueConstraint("secret_hash", name="uq_management_keys_secret_hash"),
        sa.CheckConstraint(_ROLE, name=op.f("ck_management_keys_role")),
    )
    create_index("idx_management_keys_previous_hash", "management_keys", ["previous_hash"])


def _sessions() -> None:
    """Make the table again, with its new columns: nothing was ever written to the old one."""
    columns = {column["name"] for column in sa.inspect(op.get_bind()).get_columns("admin_sessions")}
    if "token_fingerprint" in columns:
        drop_table("admin_sessions")
    create_table(
        "admin_sessions",
        sa.Column("id_hash", ascii_fixed(64), nullable=False),
        sa.Column("method", ascii_text(16), nullable=False),
        sa.Column("actor", exact_text(255), nullable=False),
        sa.Column("role", ascii_text(16), nullable=False),
        sa.Column("projects", long_text()),
        sa.Column("key_id", ascii_text(36)),
        sa.Column("fingerprint", ascii_fixed(64), nullable=False),
        sa.Column("id_token", long_text()),
        sa.Column("remember", sa.Boolean(), nullable=False),
        sa.Column("client_ip", exact_text(45)),
        sa.Column("user_agent", exact_text(255)),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("last_seen_at", UtcTime(), nullable=False),
        sa.Column("expires_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("id_hash", name="pk_admin_sessions"),
        sa.CheckConstraint(_ROLE, name=op.f("ck_admin_sessions_role")),
        sa.CheckConstraint("method IN ('token','key','oidc')", name=op.f("ck_admin_sessions_method")),
    )
    create_index("idx_admin_sessions_expires_at", "admin_sessions", ["expires_at"])


def _sign_ins() -> None:
    create_table(
        "admin_sign_ins",
        sa.Column("state_hash", ascii_fixed(64), nullable=False),
        sa.Column("browser_hash", ascii_fixed(64), nullable=False),
        sa.Column("nonce", ascii_text(64), nullable=False),
        sa.Column("code_verifier", ascii_text(128), nullable=False),
        sa.Column("return_to", long_text(), nullable=False),
        sa.Column("expires_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("state_hash", name="pk_admin_sign_ins"),
    )
    create_index("idx_admin_sign_ins_expires_at", "admin_sign_ins", ["expires_at"])
