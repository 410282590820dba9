"""What the first revision makes and a later one takes away: its downgrade makes the same again."""

import sqlalchemy as sa

from llm_proxy.db.migrations.steps import create_index, create_table, required
from llm_proxy.db.types import UtcTime, ascii_fixed

INDEXES = {
    "idx_tokens_project_id": ("tokens", ["project_id"]),
    "idx_tokens_expires_at": ("tokens", ["expires_at"]),
    "idx_tokens_is_active": ("tokens", ["is_active"]),
    "idx_tokens_project_id_created_at": ("tokens", ["project_id", "created_at"]),
    "idx_audit_timestamp": ("audit_events", ["timestamp"]),
    "idx_audit_action": ("audit_events", ["action"]),
    "idx_audit_project_id": ("audit_events", ["project_id"]),
    "idx_audit_client_ip": ("audit_events", ["client_ip"]),
    "idx_audit_request_id": ("audit_events", ["request_id"]),
    "idx_audit_outcome": ("audit_events", ["outcome"]),
    "idx_audit_ip_action": ("audit_events", ["client_ip", "action"]),
    "idx_audit_project_id_timestamp": ("audit_events", ["project_id", "timestamp"]),
    "idx_audit_action_timestamp": ("audit_events", ["action", "timestamp"]),
    "idx_audit_correlation_id": ("audit_events", ["correlation_id"]),
}


def create_first_index(name: str) -> None:
    """Create one of `INDEXES`."""
    create_index(name, *INDEXES[name])


def create_first_admin_sessions() -> None:
    """Create `admin_sessions` as the first revision has it, and as a downgrade has it again."""
    create_table(
        "admin_sessions",
        *required(id_hash=ascii_fixed(64), token_fingerprint=ascii_fixed(64), csrf_hash=ascii_fixed(64)),
        *required(remember=sa.Boolean(), created_at=UtcTime(), last_seen_at=UtcTime(), expires_at=UtcTime()),
        key=("id_hash",),
        indexes=(("expires_at",),),
    )
