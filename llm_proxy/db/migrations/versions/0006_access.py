"""Management keys, sessions with an actor and a role, and the actor of what is created."""

import sqlalchemy as sa
from alembic import op

from llm_proxy.db.migrations.first import create_first_admin_sessions
from llm_proxy.db.migrations.steps import add_column, create_table, drop_column, drop_tables, optional, required
from llm_proxy.db.types import UtcTime, ascii_fixed, ascii_text, exact_text, long_text

revision, down_revision = "0006", "0005"

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
    drop_tables("admin_sign_ins", "admin_sessions", "management_keys")
    create_first_admin_sessions()


def _keys() -> None:
    create_table(
        "management_keys",
        *required(id=ascii_text(36), name=exact_text(255), secret_hash=ascii_fixed(64)),
        *optional(previous_hash=ascii_fixed(64), previous_until=UtcTime()),
        *required(role=ascii_text(16)),
        *optional(projects=long_text(), expires_at=UtcTime()),
        *required(created_at=UtcTime(), created_by=exact_text(255)),
        *optional(last_used_at=UtcTime()),
        sa.UniqueConstraint("name", name="uq_management_keys_name"),
        sa.UniqueConstraint("secret_hash", name="uq_management_keys_secret_hash"),
        sa.CheckConstraint(_ROLE, name=op.f("ck_management_keys_role")),
        key=("id",),
        indexes=(("previous_hash",),),
    )


def _sessions() -> None:
    """Make the table again, with its new columns: nothing was ever written to the old one."""
    columns = {column["name"] for column in sa.inspect(op.get_bind()).get_columns("admin_sessions")}
    if "token_fingerprint" in columns:
        drop_tables("admin_sessions")
    create_table(
        "admin_sessions",
        *required(id_hash=ascii_fixed(64), method=ascii_text(16), actor=exact_text(255), role=ascii_text(16)),
        *optional(projects=long_text(), key_id=ascii_text(36)),
        *required(fingerprint=ascii_fixed(64)),
        *optional(id_token=long_text()),
        *required(remember=sa.Boolean()),
        *optional(client_ip=exact_text(45), user_agent=exact_text(255)),
        *required(created_at=UtcTime(), last_seen_at=UtcTime(), expires_at=UtcTime()),
        sa.CheckConstraint(_ROLE, name=op.f("ck_admin_sessions_role")),
        sa.CheckConstraint("method IN ('token','key','oidc')", name=op.f("ck_admin_sessions_method")),
        key=("id_hash",),
        indexes=(("expires_at",),),
    )


def _sign_ins() -> None:
    create_table(
        "admin_sign_ins",
        *required(state_hash=ascii_fixed(64), browser_hash=ascii_fixed(64), nonce=ascii_text(64)),
        *required(code_verifier=ascii_text(128), return_to=long_text(), expires_at=UtcTime()),
        key=("state_hash",),
        indexes=(("expires_at",),),
    )
