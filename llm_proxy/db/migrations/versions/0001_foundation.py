"""Projects, tokens, audit trail, and the program's own tables."""

import uuid
from functools import partial

import sqlalchemy as sa
from alembic import op

from llm_proxy.db.migrations.first import INDEXES, create_first_admin_sessions, create_first_index
from llm_proxy.db.migrations.steps import counts, create_table, drop_tables, now_default, optional, required
from llm_proxy.db.types import UtcTime, ascii_fixed, ascii_text, big_integer, exact_text, long_text

revision, down_revision = "0001", None

HOLDS = ("tokens", "projects", "audit_events")


def upgrade() -> None:
    """Everything from nothing."""
    _projects()
    _tokens()
    _audit_events()
    _own_tables()
    for name in INDEXES:
        create_first_index(name)
    instance = sa.table("instance", sa.column("id", sa.String))
    if not op.get_bind().execute(sa.select(instance.c.id)).first():
        op.bulk_insert(instance, [{"id": str(uuid.uuid4())}])


downgrade = partial(drop_tables, "admin_sessions", "locks", "instance", "audit_events", "tokens", "projects")


def _projects() -> None:
    create_table(
        "projects",
        *required(id=ascii_text(36), name=exact_text(255), api_key=long_text()),
        sa.Column("is_active", sa.Boolean(), nullable=False, server_default=sa.true()),
        *optional(deactivated_at=UtcTime()),
        sa.Column("created_at", UtcTime(), nullable=False, server_default=now_default()),
        sa.Column("updated_at", UtcTime(), nullable=False, server_default=now_default()),
        *optional(requests_per_minute=sa.Integer(), tokens_per_minute=sa.Integer()),
        *optional(max_cost_nano_usd_per_month=big_integer()),
        sa.Column("event_privacy", ascii_text(16), nullable=False, server_default="full"),
        sa.UniqueConstraint("name", name="uq_projects_name"),
        sa.CheckConstraint("event_privacy IN ('full','metadata','off')", name=op.f("ck_projects_event_privacy")),
        key=("id",),
    )


def _tokens() -> None:
    create_table(
        "tokens",
        *required(id=ascii_text(36), token=ascii_fixed(64)),
        sa.Column("token_hint", ascii_text(32), nullable=False, server_default=""),
        *required(project_id=ascii_text(36)),
        *optional(expires_at=UtcTime()),
        sa.Column("is_active", sa.Boolean(), nullable=False, server_default=sa.true()),
        *optional(deactivated_at=UtcTime()),
        *counts("request_count"),
        *optional(max_requests=big_integer()),
        *counts("cache_hit_count"),
        sa.Column("created_at", UtcTime(), nullable=False, server_default=now_default()),
        *optional(last_used_at=UtcTime()),
        *counts("lease_version"),
        *optional(leases=long_text(), name=exact_text(255), metadata=long_text()),
        *optional(idle_timeout_minutes=sa.Integer(), requests_per_minute=sa.Integer(), tokens_per_minute=sa.Integer()),
        *optional(max_total_tokens=big_integer(), max_cost_nano_usd=big_integer()),
        *counts("total_tokens", "total_cost_nano_usd"),
        sa.UniqueConstraint("token", name="uq_tokens_token"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_tokens_project_id", ondelete="RESTRICT"),
        sa.CheckConstraint("request_count >= 0", name=op.f("ck_tokens_request_count")),
        sa.CheckConstraint("cache_hit_count >= 0", name=op.f("ck_tokens_cache_hit_count")),
        sa.CheckConstraint("max_requests >= 0", name=op.f("ck_tokens_max_requests")),
        key=("id",),
    )


def _audit_events() -> None:
    create_table(
        "audit_events",
        *required(id=ascii_text(36), timestamp=UtcTime(), action=exact_text(64), actor=exact_text(64)),
        *optional(project_id=exact_text(36), request_id=exact_text(128), correlation_id=exact_text(128)),
        *optional(client_ip=exact_text(45), method=exact_text(16), path=long_text()),
        *optional(user_agent=long_text()),
        *required(outcome=ascii_text(16)),
        *optional(reason=long_text(), token_id=exact_text(36), metadata=long_text(), writer=ascii_text(36)),
        *optional(seq=big_integer(), prev_hash=ascii_fixed(64), hash=ascii_fixed(64)),
        sa.UniqueConstraint("writer", "seq", name="uq_audit_events_writer_seq"),
        sa.CheckConstraint("outcome IN ('success','failure','denied','error')", name=op.f("ck_audit_events_outcome")),
        key=("id",),
    )


def _own_tables() -> None:
    create_table("instance", *required(id=ascii_text(36)), key=("id",))
    create_table("locks", *required(name=ascii_text(64), holder=exact_text(128), expires_at=UtcTime()), key=("name",))
    create_first_admin_sessions()
