"""The audit trail and its chains."""

from datetime import datetime

from sqlalchemy import CheckConstraint, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from llm_proxy.db.models.base import MYSQL_TABLE, Base
from llm_proxy.db.types import UtcTime, ascii_fixed, ascii_text, big_integer, exact_text, long_text


class AuditRow(Base):
    """One audited action. No foreign keys: records outlive what they speak of."""

    __tablename__ = "audit_events"
    __table_args__ = (
        CheckConstraint("outcome IN ('success','failure','denied','error')", name="outcome"),
        UniqueConstraint("writer", "seq", name="uq_audit_events_writer_seq"),
        Index("idx_audit_timestamp_id", "timestamp", "id"),
        Index("idx_audit_action_timestamp_id", "action", "timestamp", "id"),
        Index("idx_audit_actor_timestamp_id", "actor", "timestamp", "id"),
        Index("idx_audit_outcome_timestamp_id", "outcome", "timestamp", "id"),
        Index("idx_audit_project_timestamp_id", "project_id", "timestamp", "id"),
        Index("idx_audit_token_timestamp_id", "token_id", "timestamp", "id"),
        Index("idx_audit_client_ip_timestamp_id", "client_ip", "timestamp", "id"),
        Index("idx_audit_method_timestamp_id", "method", "timestamp", "id"),
        Index("idx_audit_request_id", "request_id"),
        Index("idx_audit_correlation_id", "correlation_id"),
        MYSQL_TABLE,
    )

    id: Mapped[str] = mapped_column(ascii_text(36), primary_key=True)
    timestamp: Mapped[datetime] = mapped_column(UtcTime())
    action: Mapped[str] = mapped_column(exact_text(64))
    actor: Mapped[str] = mapped_column(exact_text(255))
    project_id: Mapped[str | None] = mapped_column(exact_text(36))
    request_id: Mapped[str | None] = mapped_column(exact_text(128))
    correlation_id: Mapped[str | None] = mapped_column(exact_text(128))
    client_ip: Mapped[str | None] = mapped_column(exact_text(45))
    method: Mapped[str | None] = mapped_column(exact_text(16))
    path: Mapped[str | None] = mapped_column(long_text())
    user_agent: Mapped[str | None] = mapped_column(long_text())
    outcome: Mapped[str] = mapped_column(ascii_text(16))
    reason: Mapped[str | None] = mapped_column(long_text())
    token_id: Mapped[str | None] = mapped_column(exact_text(36))
    metadata_: Mapped[str | None] = mapped_column("metadata", long_text())
    writer: Mapped[str | None] = mapped_column(ascii_text(36))
    seq: Mapped[int | None] = mapped_column(big_integer())
    prev_hash: Mapped[str | None] = mapped_column(ascii_fixed(64))
    hash: Mapped[str | None] = mapped_column(ascii_fixed(64))


class AuditWriterRow(Base):
    """A chain of records in the table: its newest record, and the newest that pruning took off its head."""

    __tablename__ = "audit_writers"
    __table_args__ = (MYSQL_TABLE,)

    writer: Mapped[str] = mapped_column(ascii_text(36), primary_key=True)
    last_seq: Mapped[int] = mapped_column(big_integer())
    last_hash: Mapped[str] = mapped_column(ascii_fixed(64))
    removed_seq: Mapped[int] = mapped_column(big_integer())
    removed_hash: Mapped[str] = mapped_column(ascii_fixed(64))


class AuditFileRow(Base):
    """A chain of lines in an audit file: where the file is, and its newest line that was told."""

    __tablename__ = "audit_files"
    __table_args__ = (Index("idx_audit_files_updated_at", "updated_at"), MYSQL_TABLE)

    writer: Mapped[str] = mapped_column(ascii_text(36), primary_key=True)
    place: Mapped[str] = mapped_column(exact_text(255))
    last_seq: Mapped[int] = mapped_column(big_integer())
    last_hash: Mapped[str] = mapped_column(ascii_fixed(64))
    updated_at: Mapped[datetime] = mapped_column(UtcTime())
