"""Indexes in the order of lists: the sorted column, then the id, behind each column that is filtered by."""

from llm_proxy.db.migrations.first import INDEXES, create_first_index
from llm_proxy.db.migrations.steps import create_index, drop_index

revision, down_revision = "0007", "0006"

HOLDS = ()

NEW = (
    ("idx_projects_created_at_id", "projects", ["created_at", "id"]),
    ("idx_projects_updated_at_id", "projects", ["updated_at", "id"]),
    ("idx_tokens_created_at_id", "tokens", ["created_at", "id"]),
    ("idx_tokens_expires_at_id", "tokens", ["expires_at", "id"]),
    ("idx_tokens_last_used_at_id", "tokens", ["last_used_at", "id"]),
    ("idx_tokens_request_count_id", "tokens", ["request_count", "id"]),
    ("idx_tokens_project_created_at_id", "tokens", ["project_id", "created_at", "id"]),
    ("idx_tokens_active_expires_at_id", "tokens", ["is_active", "expires_at", "id"]),
    ("idx_tokens_active_idle_timeout_id", "tokens", ["is_active", "idle_timeout_minutes", "id"]),
    ("idx_audit_timestamp_id", "audit_events", ["timestamp", "id"]),
    ("idx_audit_action_timestamp_id", "audit_events", ["action", "timestamp", "id"]),
    ("idx_audit_actor_timestamp_id", "audit_events", ["actor", "timestamp", "id"]),
    ("idx_audit_outcome_timestamp_id", "audit_events", ["outcome", "timestamp", "id"]),
    ("idx_audit_project_timestamp_id", "audit_events", ["project_id", "timestamp", "id"]),
    ("idx_audit_token_timestamp_id", "audit_events", ["token_id", "timestamp", "id"]),
    ("idx_audit_client_ip_timestamp_id", "audit_events", ["client_ip", "timestamp", "id"]),
    ("idx_audit_method_timestamp_id", "audit_events", ["method", "timestamp", "id"]),
)
OLD = (  # beginnings of the new ones
    "idx_tokens_expires_at",
    "idx_tokens_is_active",
    "idx_tokens_project_id_created_at",
    "idx_tokens_project_id",
    "idx_audit_timestamp",
    "idx_audit_action",
    "idx_audit_action_timestamp",
    "idx_audit_outcome",
    "idx_audit_project_id",
    "idx_audit_project_id_timestamp",
    "idx_audit_client_ip",
    "idx_audit_ip_action",
)


def upgrade() -> None:
    """Create the new indexes, then drop those that they replace."""
    for name, table, columns in NEW:
        create_index(name, table, columns)
    for name in OLD:
        drop_index(name, INDEXES[name][0])


def downgrade() -> None:
    """Create the old ones again, first, because MySQL wants an index under each foreign key."""
    for name in OLD:
        create_first_index(name)
    for name, table, _ in NEW:
        drop_index(name, table)
