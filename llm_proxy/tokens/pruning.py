"""Deleting tokens that have been dead for long, in small batches."""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy import ColumnElement, Engine, and_, delete, func, or_, select

from llm_proxy.db.models import TokenRow
from llm_proxy.db.session import reading, writing
from llm_proxy.model.token import expired_before

BATCH = 500  # rows a transaction: longer ones stop admission on SQLite


def dead_before(before: datetime) -> ColumnElement[bool]:
    """Return the condition that a row was revoked or had expired before that instant.

    A revoked row from before revocations were dated counts by its creation.
    """
    revoked_at = func.coalesce(TokenRow.deactivated_at, TokenRow.created_at)
    return or_(and_(TokenRow.is_active.is_(False), revoked_at < before), expired_before(before))


def count(engine: Engine, before: datetime) -> int:
    """How many `prune` would delete now."""
    with reading(engine) as connection:
        query = select(func.count()).select_from(TokenRow).where(dead_before(before))
        return int(connection.execute(query).scalar_one())


def prune(engine: Engine, before: datetime, *, progress: Callable[[int], None] = lambda _: None) -> int:
    """Delete them; returns how many. One that is revived meanwhile stays."""
    deleted = 0
    while True:
        with reading(engine) as connection:
            ids = list(connection.execute(select(TokenRow.id).where(dead_before(before)).limit(BATCH)).scalars())
        if not ids:
            return deleted
        with writing(engine) as connection:
            gone = connection.execute(delete(TokenRow).where(TokenRow.id.in_(ids), dead_before(before))).rowcount
        deleted += gone
        progress(gone)
