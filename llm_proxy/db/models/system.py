"""Tables that the program keeps for itself."""

from datetime import datetime

from sqlalchemy import Index, Integer
from sqlalchemy.orm import Mapped, mapped_column

from llm_proxy.db.models.base import MYSQL_TABLE, Base
from llm_proxy.db.types import UtcTime, ascii_fixed, ascii_text, big_integer, exact_text, long_text


class InstanceRow(Base):
    """One row, written by the first migration: the name of this database, for folders outside it that belong to it."""

    __tablename__ = "instance"
    __table_args__ = (MYSQL_TABLE,)

    id: Mapped[str] = mapped_column(ascii_text(36), primary_key=True)


class LockRow(Base):
    """The leader of a job, and until when."""

    __tablename__ = "locks"
    __table_args__ = (MYSQL_TABLE,)

    name: Mapped[str] = mapped_column(ascii_text(64), primary_key=True)
    holder: Mapped[str] = mapped_column(exact_text(128))
    expires_at: Mapped[datetime] = mapped_column(UtcTime())


class IdempotencyRow(Base):
    """A creation that carried an Idempotency-Key: running while `status` is null, else its response, sealed."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index("idx_idempotency_keys_created_at", "created_at"), MYSQL_TABLE)

    path: Mapped[str] = mapped_column(ascii_text(128), primary_key=True)
    key: Mapped[str] = mapped_column(ascii_text(255), primary_key=True)
    body_sha256: Mapped[str] = mapped_column(ascii_fixed(64))
    status: Mapped[int | None] = mapped_column(Integer())
    answer: Mapped[str | None] = mapped_column(long_text())
    actor: Mapped[str | None] = mapped_column(exact_text(255))
    created_at: Mapped[datetime] = mapped_column(UtcTime())


class CachePurgeRow(Base):
    """One purge of the response cache; numbers follow the order of commits, workers apply what is new to them."""

    __tablename__ = "cache_purges"
    __table_args__ = (MYSQL_TABLE,)

    number: Mapped[int] = mapped_column(big_integer(), primary_key=True, autoincrement=False)
    scope: Mapped[str] = mapped_column(long_text())
    created_at: Mapped[datetime] = mapped_column(UtcTime())
