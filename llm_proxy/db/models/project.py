"""Projects."""

from datetime import datetime

from sqlalchemy import Boolean, CheckConstraint, ForeignKey, Index, Integer, UniqueConstraint, true
from sqlalchemy.orm import Mapped, mapped_column

from llm_proxy.db.models.base import MYSQL_TABLE, Base
from llm_proxy.db.types import UtcTime, ascii_text, big_integer, exact_text, long_text


class ProjectRow(Base):
    """A team and the provider's key that its tokens stand for. `api_key` is sealed or, without a key ring, plain."""

    __tablename__ = "projects"
    __table_args__ = (
        UniqueConstraint("name", name="uq_projects_name"),
        CheckConstraint("event_privacy IN ('full','metadata','off')", name="event_privacy"),
        Index("idx_projects_created_at_id", "created_at", "id"),
        Index("idx_projects_updated_at_id", "updated_at", "id"),
        MYSQL_TABLE,
    )

    id: Mapped[str] = mapped_column(ascii_text(36), primary_key=True)
    name: Mapped[str] = mapped_column(exact_text(255))
    api_key: Mapped[str] = mapped_column(long_text())
    is_active: Mapped[bool] = mapped_column(Boolean(), server_default=true())
    deactivated_at: Mapped[datetime | None] = mapped_column(UtcTime())
    created_at: Mapped[datetime] = mapped_column(UtcTime())
    updated_at: Mapped[datetime] = mapped_column(UtcTime())
    requests_per_minute: Mapped[int | None] = mapped_column(Integer())
    tokens_per_minute: Mapped[int | None] = mapped_column(Integer())
    max_cost_nano_usd_per_month: Mapped[int | None] = mapped_column(big_integer())
    event_privacy: Mapped[str] = mapped_column(ascii_text(16), server_default="full")
    created_by: Mapped[str | None] = mapped_column(exact_text(255))


class ProjectKeyRow(Base):
    """A project's key for a provider beside the default one, whose key is `ProjectRow.api_key`. Sealed like it."""

    __tablename__ = "project_keys"
    __table_args__ = (
        UniqueConstraint("project_id", "provider", name="uq_project_keys_project_id_provider"),
        MYSQL_TABLE,
    )

    id: Mapped[str] = mapped_column(ascii_text(36), primary_key=True)
    project_id: Mapped[str] = mapped_column(ascii_text(36), ForeignKey("projects.id", ondelete="CASCADE"))
    provider: Mapped[str] = mapped_column(exact_text(255))
    api_key: Mapped[str] = mapped_column(long_text())
    created_at: Mapped[datetime] = mapped_column(UtcTime())
    updated_at: Mapped[datetime] = mapped_column(UtcTime())
