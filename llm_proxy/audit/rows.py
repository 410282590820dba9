"""What verifying and pruning read of the chains in the table."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Dialect, Engine, func, select, type_coerce

from llm_proxy.audit.chain import ANCHOR, Link
from llm_proxy.db.models import AuditRow, AuditWriterRow
from llm_proxy.db.session import read_transaction
from llm_proxy.db.types import UtcTime

Row = dict[str, Any]
ANCHORS = 50  # of one writer that are looked at: processes that prune may have clocks that differ

_EVENTS, _WRITERS = AuditRow.__table__, AuditWriterRow.__table__


class _AnyTime(UtcTime):
    """An instant, or whatever is found in its place: what was tampered with must be readable to be named."""

    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        """As UtcTime; what is no instant stays as it is."""
        try:
            return super().process_result_value(value, dialect)
        except (ValueError, TypeError, AttributeError):
            return value


ROW = select(
    *(
        type_coerce(column, _AnyTime()).label(column.name) if isinstance(column.type, UtcTime) else column
        for column in _EVENTS.c
    )
)


@dataclass(frozen=True, slots=True)
class Head:
    """A writer's row: its newest record, and the newest that was removed."""

    writer: str
    last: Link
    removed: Link


def head(connection: Connection, writer: str) -> Head | None:
    """Return the writer's row."""
    row = connection.execute(select(_WRITERS).where(_WRITERS.c.writer == writer)).one_or_none()
    if row is None:
        return None
    return Head(row.writer, Link(row.last_seq, row.last_hash), Link(row.removed_seq, row.removed_hash))


def after(connection: Connection, writer: str, seq: int, limit: int) -> list[Row]:
    """Return the writer's records behind that number, in order."""
    query = ROW.where(_EVENTS.c.writer == writer, _EVENTS.c.seq > seq).order_by(_EVENTS.c.seq).limit(limit)
    return [dict(row) for row in connection.execute(query).mappings()]


def seq_bounds(connection: Connection, writer: str) -> tuple[int, int] | None:
    """Return the lowest and the highest number of the writer's records; None when there are none."""
    query = select(func.min(_EVENTS.c.seq), func.max(_EVENTS.c.seq)).where(_EVENTS.c.writer == writer)
    low, high = connection.execute(query).one()
    return None if low is None else (low, high)


def writers(engine: Engine) -> Iterator[str]:
    """Every writer that has a row or a record, by name; a short transaction each."""
    writer: str | None = ""
    while writer is not None:
        with read_transaction(engine) as connection:
            found = [
                connection.execute(select(func.min(table.c.writer)).where(table.c.writer > writer)).scalar_one()
                for table in (_WRITERS, _EVENTS)
            ]
        writer = min((name for name in found if name is not None), default=None)
        if writer is not None:
            yield writer


def removed_by(anchor: Mapping[str, Any]) -> Link | None:
    """Return what an anchor says was removed; None when it can't be read."""
    try:
        details = json.loads(anchor["metadata"])
        return Link(int(details["removed_seq"]), str(details["removed_hash"]))
    except (ValueError, TypeError, KeyError):
        return None


def newest_anchor(connection: Connection, writer: str) -> Link | None:
    """Return the furthest that a chained anchor says was removed of this writer's chain."""
    is_anchor = (_EVENTS.c.action == ANCHOR, _EVENTS.c.correlation_id == writer, _EVENTS.c.writer.is_not(None))
    query = select(_EVENTS.c.metadata).where(*is_anchor).order_by(_EVENTS.c.timestamp.desc()).limit(ANCHORS)
    links = [
        link for text in connection.execute(query).scalars() if (link := removed_by({"metadata": text})) is not None
    ]
    return max(links, key=lambda link: link.seq, default=None)
