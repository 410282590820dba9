"""Withering tokens."""

from datetime import datetime

from sqlalchemy import Boolean, CheckConstraint, ForeignKey, Index, Integer, UniqueConstraint, text, true
from sqlalchemy.orm import Mapped, mapped_column

from llm_proxy.db.models.base import MYSQL_TABLE, Base
from llm_proxy.db.types import UtcTime, ascii_fixed, ascii_text, big_integer, exact_text, long_text


class TokenRow(Base):
    """One token. `token` is the hex SHA-256 of the bearer, `token_hint` what may be shown of it.

    Every UPDATE adds 1 to `lease_version`, but for a flush of `cache_hit_count` alone. Money is in 10⁻⁹ USD.
    """

    __tablename__ = "tokens"
    __table_args__ = (
        UniqueConstraint("token", name="uq_tokens_token"),
        CheckConstraint("request_count >= 0", name="request_count"),
        CheckConstraint("cache_hit_count >= 0", name="cache_hit_count"),
        CheckConstraint("max_requests >= 0", name="max_requests"),
        Index("idx_tokens_created_at_id", "created_at", "id"),
        Index("idx_tokens_expires_at_id", "expires_at", "id"),
        Index("idx_tokens_last_used_at_id", "last_used_at", "id"),
        Index("idx_tokens_request_count_id", "request_count", "id"),
        Index("idx_tokens_project_created_at_id", "project_id", "created_at", "id"),
        Index("idx_tokens_active_expires_at_id", "is_active", "expires_at", "id"),
        Index("idx_tokens_active_idle_timeout_id", "is_active", "idle_timeout_minutes", "id"),
        MYSQL_TABLE,
    )

    id: Mapped[str] = mapped_column(ascii_text(36), primary_key=True)
    token: Mapped[str] = mapped_column(ascii_fixed(64))
    token_hint: Mapped[str] = mapped_column(ascii_text(32), server_default="")
    project_id: Mapped[str] = mapped_column(ascii_text(36), ForeignKey("projects.id", ondelete="RESTRICT"))
    expires_at: Mapped[datetime | None] = mapped_column(UtcTime())
    is_active: Mapped[bool] = mapped_column(Boolean(), server_default=true())
    deactivated_at: Mapped[datetime | None] = mapped_column(UtcTime())
    request_count: Mapped[int] = mapped_column(big_integer(), server_default=text("0"))
    max_requests: Mapped[int | None] = mapped_column(big_integer())
    cache_hit_count: Mapped[int] = mapped_column(big_integer(), server_default=text("0"))
    created_at: Mapped[datetime] = mapped_column(UtcTime())
    last_used_at: Mapped[datetime | None] = mapped_column(UtcTime())
    lease_version: Mapped[int] = mapped_column(big_integer(), server_default=text("0"))
    leases: Mapped[str | None] = mapped_column(long_text())
    name: Mapped[str | None] = mapped_column(exact_text(255))
    metadata_: Mapped[str | None] = mapped_column("metadata", long_text())
    idle_timeout_minutes: Mapped[int | None] = mapped_column(Integer())
    requests_per_minute: Mapped[int | None] = mapped_column(Integer())
    tokens_per_minute: Mapped[int | None] = mapped_column(Integer())
    max_total_tokens: Mapped[int | None] = mapped_column(big_integer())
    max_cost_nano_usd: Mapped[int | None] = mapped_column(big_integer())
    total_tokens: Mapped[int] = mapped_column(big_integer(), server_default=text("0"))
    total_cost_nano_usd: Mapped[int] = mapped_column(big_integer(), server_default=text("0"))
    created_by: Mapped[str | None] = mapped_column(exact_text(255))
    providers: Mapped[str | None] = mapped_column(long_text())
    description: Mapped[str | None] = mapped_column(long_text())
