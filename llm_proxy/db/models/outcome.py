"""How requests ended, by hour, and when each token was last refused."""

from datetime import datetime

from sqlalchemy import Index, text
from sqlalchemy.orm import Mapped, mapped_column

from llm_proxy.db.models.base import MYSQL_TABLE, Base
from llm_proxy.db.types import UtcTime, ascii_text, big_integer


class OutcomeRow(Base):
    """The number of requests of a token that ended with one code in a UTC hour.

    `token_id` and `project_id` are empty for bearers that are no token. Rows outlive their token and project.
    """

    __tablename__ = "outcomes_hourly"
    __table_args__ = (
        Index("idx_outcomes_hourly_token_id_hour", "token_id", "hour"),
        Index("idx_outcomes_hourly_project_id_hour", "project_id", "hour"),
        MYSQL_TABLE,
    )

    hour: Mapped[datetime] = mapped_column(UtcTime(), primary_key=True)
    project_id: Mapped[str] = mapped_column(ascii_text(36), primary_key=True)
    token_id: Mapped[str] = mapped_column(ascii_text(36), primary_key=True)
    code: Mapped[str] = mapped_column(ascii_text(64), primary_key=True)
    requests: Mapped[int] = mapped_column(big_integer(), server_default=text("0"))


class RefusalRow(Base):
    """The last refusal of a token with a code."""

    __tablename__ = "token_refusals"
    __table_args__ = (Index("idx_token_refusals_refused_at", "refused_at"), MYSQL_TABLE)

    token_id: Mapped[str] = mapped_column(ascii_text(36), primary_key=True)
    code: Mapped[str] = mapped_column(ascii_text(64), primary_key=True)
    project_id: Mapped[str] = mapped_column(ascii_text(36))
    refused_at: Mapped[datetime] = mapped_column(UtcTime())
    request_id: Mapped[str | None] = mapped_column(ascii_text(128))
    refusals: Mapped[int] = mapped_column(big_integer(), server_default=text("0"))
