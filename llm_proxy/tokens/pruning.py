"""Deleting tokens that have been dead for long, in small batches."""

from collections.abc import Callable, Iterator
from datetime import datetime

from sqlalchemy import ColumnElement, Engine, and_, case, delete, func, or_, select

from llm_proxy.db import pagination
from llm_proxy.db.models import TokenRow
from llm_proxy.db.session import read_transaction, write_transaction
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
    with read_transaction(engine) as connection:
        query = select(func.count()).select_from(TokenRow).where(dead_before(before))
        return int(connection.execute(query).scalar_one())


def steps(engine: Engine, before: datetime) -> Iterator[int]:
    """Delete them, in the order of ids; yield after each transaction how many it deleted.

    One that is revived meanwhile stays.
    """
    after, is_dead = "", dead_before(before)
    query = select(TokenRow.id, case((is_dead, 1), else_=0)).order_by(TokenRow.id).limit(BATCH)
    while True:
        with read_transaction(engine) as connection:
            rows = connection.execute(query.where(TokenRow.id > after)).all()
        if not rows:
            return
        after, ids = rows[-1][0], [row[0] for row in rows if row[1]]
        gone = 0
        if ids:
            with write_transaction(engine) as connection:
                still = pagination.opaque(is_dead)  # or the planner may look for all that are dead, in each batch
                gone = connection.execute(delete(TokenRow).where(TokenRow.id.in_(ids), still)).rowcount
        yield gone


def prune(engine: Engine, before: datetime, *, progress: Callable[[int], None] = lambda _: None) -> int:
    """Delete them all; return how many. `progress` is called with the number of each transaction that deleted."""
    deleted = 0
    for gone in steps(engine, before):
        deleted += gone
        if gone:
            progress(gone)
    return deleted
