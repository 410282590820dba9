"""What was used, by day."""

from datetime import date, datetime

from sqlalchemy import Date, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from llm_proxy.db.models.base import MYSQL_TABLE, Base
from llm_proxy.db.types import UtcTime, ascii_text, big_integer, exact_text


class UsageRow(Base):
    """Sums of a UTC day, project, token, model and provider. Money is in 10⁻⁹ USD; null: the model has no price.

    `provider` is empty in rows from before it was recorded. `estimated` counts the exchanges whose tokens the provider
    did not report. Rows outlive their token and project.
    """

    __tablename__ = "usage_daily"
    __table_args__ = (
        Index("idx_usage_daily_project_id_day", "project_id", "day"),
        Index("idx_usage_daily_token_id_day", "token_id", "day"),
        MYSQL_TABLE,
    )

    day: Mapped[date] = mapped_column(Date(), primary_key=True)
    project_id: Mapped[str] = mapped_column(ascii_text(36), primary_key=True)
    token_id: Mapped[str] = mapped_column(ascii_text(36), primary_key=True)
    model: Mapped[str] = mapped_column(exact_text(255), primary_key=True)
    provider: Mapped[str] = mapped_column(exact_text(255), primary_key=True, server_default=text("''"))
    requests: Mapped[int] = mapped_column(big_integer(), server_default=text("0"))
    prompt_tokens: Mapped[int] = mapped_column(big_integer(), server_default=text("0"))
    completion_tokens: Mapped[int] = mapped_column(big_integer(), server_default=text("0"))
    cached_tokens: Mapped[int] = mapped_column(big_integer(), server_default=text("0"))
    reasoning_tokens: Mapped[int] = mapped_column(big_integer(), server_default=text("0"))
    cost_nano_usd: Mapped[int | None] = mapped_column(big_integer())
    estimated: Mapped[int] = mapped_column(big_integer(), server_default=text("0"))


class UsageObjectRow(Base):
    """A provider's object whose usage was counted, or the mark of a worker's last batch (without a project)."""

    __tablename__ = "usage_objects"
    __table_args__ = (Index("idx_usage_objects_counted_at", "counted_at"), MYSQL_TABLE)

    project_id: Mapped[str] = mapped_column(ascii_text(36), primary_key=True)
    object_id: Mapped[str] = mapped_column(exact_text(255), primary_key=True)
    counted_at: Mapped[datetime] = mapped_column(UtcTime())
