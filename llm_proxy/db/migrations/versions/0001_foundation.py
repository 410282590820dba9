"""Projects, tokens, audit trail, and the program's own tables."""

import uuid

import sqlalchemy as sa
from alembic import op

from llm_proxy.db.migrations.steps import create_index, create_table, drop_table, now_default
from llm_proxy.db.types import UtcTime, ascii_fixed, ascii_text, big_integer, exact_text, long_text

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

HOLDS = ("tokens", "projects", "audit_events")

INDEXES = (
    ("idx_tokens_project_id", "tokens", ["project_id"]),
    ("idx_tokens_expires_at", "tokens", ["expires_at"]),
    ("idx_tokens_is_active", "tokens", ["is_active"]),
    ("idx_tokens_project_id_created_at", "tokens", ["project_id", "created_at"]),
    ("idx_audit_timestamp", "audit_events", ["timestamp"]),
    ("idx_audit_action", "audit_events", ["action"]),
    ("idx_audit_project_id", "audit_events", ["project_id"]),
    ("idx_audit_client_ip", "audit_events", ["client_ip"]),
    ("idx_audit_request_id", "audit_events", ["request_id"]),
    ("idx_audit_outcome", "audit_events", ["outcome"]),
    ("idx_audit_ip_action", "audit_events", ["client_ip", "action"]),
    ("idx_audit_project_id_timestamp", "audit_events", ["project_id", "timestamp"]),
    ("idx_audit_action_timestamp", "audit_events", ["action", "timestamp"]),
    ("idx_audit_correlation_id", "audit_events", ["correlation_id"]),
    ("idx_admin_sessions_expires_at", "admin_sessions", ["expires_at"]),
)


def upgrade() -> None:
    """Everything from nothing."""
    _projects()
    _tokens()
    _audit_events()
    _own_tables()
    for name, table, columns in INDEXES:
        create_index(name, table, columns)
    instance = sa.table("instance", sa.column("id", sa.String))
    if not op.get_bind().execute(sa.select(instance.c.id)).first():
        op.bulk_insert(instance, [{"id": str(uuid.uuid4())}])


def downgrade() -> None:
    """Nothing is left but Alembic's own table."""
    for name in ("admin_sessions", "locks", "instance", "audit_events", "tokens", "projects"):
        drop_table(name)


def _projects() -> None:
    create_table(
        "projects",
        sa.Column("id", ascii_text(36), nullable=False),
        sa.Column("name", exact_text(255), nullable=False),
        sa.Column("api_key", long_text(), nullable=False),
        sa.Column("is_active", sa.Boolean(), nullable=False, server_default=sa.true()),
        sa.Column("deactivated_at", UtcTime()),
        sa.Column("created_at", UtcTime(), nullable=False, server_default=now_default()),
        sa.Column("updated_at", UtcTime(), nullable=False, server_default=now_default()),
        sa.Column("requests_per_minute", sa.Integer()),
        sa.Column("tokens_per_minute", sa.Integer()),
        sa.Column("max_cost_nano_usd_per_month", big_integer()),
        sa.Column("event_privacy", ascii_text(16), nullable=False, server_default="full"),
        sa.PrimaryKeyConstraint("id", name="pk_projects"),
        sa.UniqueConstraint("name", name="uq_projects_name"),
        sa.CheckConstraint("event_privacy IN ('full','metadata','off')", name=op.f("ck_projects_event_privacy")),
    )


def _tokens() -> None:
    zero = sa.text("0")
    create_table(
        "tokens",
        sa.Column("id", ascii_text(36), nullable=False),
        sa.Column("token", ascii_fixed(64), nullable=False),
        sa.Column("token_hint", ascii_text(32), nullable=False, server_default=""),
        sa.Column("project_id", ascii_text(36), nullable=False),
        sa.Column("expires_at", UtcTime()),
        sa.Column("is_active", sa.Boolean(), nullable=False, server_default=sa.true()),
        sa.Column("deactivated_at", UtcTime()),
        sa.Column("request_count", big_integer(), nullable=False, server_default=zero),
        sa.Column("max_requests", big_integer()),
        sa.Column("cache_hit_count", big_integer(), nullable=False, server_default=zero),
        sa.Column("created_at", UtcTime(), nullable=False, server_default=now_default()),
        sa.Column("last_used_at", UtcTime()),
        sa.Column("lease_version", big_integer(), nullable=False, server_default=zero),
        sa.Column("leases", long_text()),
        sa.Column("name", exact_text(255)),
        sa.Column("metadata", long_text()),
        sa.Column("idle_timeout_minutes", sa.Integer()),
        sa.Column("requests_per_minute", sa.Integer()),
        sa.Column("tokens_per_minute", sa.Integer()),
        sa.Column("max_total_tokens", big_integer()),
        sa.Column("max_cost_nano_usd", big_integer()),
        sa.Column("total_tokens", big_integer(), nullable=False, server_default=zero),
        sa.Column("total_cost_nano_usd", big_integer(), nullable=False, server_default=zero),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sa.UniqueConstraint("token", name="uq_tokens_token"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_tokens_project_id", ondelete="RESTRICT"),
        sa.CheckConstraint("request_count >= 0", name=op.f("ck_tokens_request_count")),
        sa.CheckConstraint("cache_hit_count >= 0", name=op.f("ck_tokens_cache_hit_count")),
        sa.CheckConstraint("max_requests >= 0", name=op.f("ck_tokens_max_requests")),
    )


def _audit_events() -> None:
    create_table(
        "audit_events",
        sa.Column("id", ascii_text(36), nullable=False),
        sa.Column("timestamp", UtcTime(), nullable=False),
        sa.Column("action", exact_text(64), nullable=False),
        sa.Column("actor", exact_text(64), nullable=False),
        sa.Column("project_id", exact_text(36)),
        sa.Column("request_id", exact_text(128)),
        sa.Column("correlation_id", exact_text(128)),
        sa.Column("client_ip", exact_text(45)),
        sa.Column("method", exact_text(16)),
        sa.Column("path", long_text()),
        sa.Column("user_agent", long_text()),
        sa.Column("outcome", ascii_text(16), nullable=False),
        sa.Column("reason", long_text()),
        sa.Column("token_id", exact_text(36)),
        sa.Column("metadata", long_text()),
        sa.Column("writer", ascii_text(36)),
        sa.Column("seq", big_integer()),
        sa.Column("prev_hash", ascii_fixed(64)),
        sa.Column("hash", ascii_fixed(64)),
        sa.PrimaryKeyConstraint("id", name="pk_audit_events"),
        sa.UniqueConstraint("writer", "seq", name="uq_audit_events_writer_seq"),
        sa.CheckConstraint("outcome IN ('success','failure','denied','error')", name=op.f("ck_audit_events_outcome")),
    )


def _own_tables() -> None:
    create_table(
        "instance",
        sa.Column("id", ascii_text(36), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_instance"),
    )
    create_table(
        "locks",
        sa.Column("name", ascii_text(64), nullable=False),
        sa.Column("holder", exact_text(128), nullable=False),
        sa.Column("expires_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_locks"),
    )
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
