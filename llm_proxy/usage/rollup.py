"""Sums on their way to the database: added up in memory, written behind in batches, each exactly once.

A batch carries a unique mark into the transaction that writes it. When a response to COMMIT is lost, the next
attempt finds the mark, or does not, and knows.
"""

import logging
import threading
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, Table, case, delete, func, insert, literal_column, select, update
from sqlalchemy.dialects import mysql, postgresql, sqlite

from llm_proxy.db.errors import WriteFailures, is_value_fault
from llm_proxy.db.models import TokenRow, UsageObjectRow, UsageRow
from llm_proxy.db.session import write_transaction
from llm_proxy.runtime.clock import utc_now

_NAME_CHARACTERS = 255  # of a model or a provider
_OBJECT_CHARACTERS = 255
_REST_LIMIT_S = 0.25
_ROWS_AT_ONCE = 200  # of one transaction
_TOKENS: Any = TokenRow.__table__
_DAILY: Any = UsageRow.__table__
_OBJECTS: Any = UsageObjectRow.__table__
_ZERO: Any = literal_column("0")  # PyMySQL's executemany takes no parameters behind VALUES
_COUNTS = ("requests", "prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens", "estimated")
_log = logging.getLogger(__name__)


class Key(NamedTuple):
    """A row of usage_daily."""

    day: date
    project_id: str
    token_id: str
    model: str
    provider: str = ""


@dataclass(slots=True)
class Sums:
    """Counts of one key."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: int = 0  # of the requests, those whose tokens are estimates
    cost_nano_usd: int | None = None  # None: nothing in it has a price

    def add(self, other: "Sums") -> None:
        """Add another's."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        if other.cost_nano_usd is not None:
            self.cost_nano_usd = (self.cost_nano_usd or 0) + other.cost_nano_usd

    @property
    def total_tokens(self) -> int:
        """What budgets count."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def values(self) -> dict[str, Any]:
        """By column."""
        return {name: getattr(self, name) for name in (*_COUNTS, "cost_nano_usd")}


@dataclass(slots=True)
class _Batch:
    sums: dict[Key, Sums] = field(default_factory=lambda: defaultdict(Sums))
    once: list[tuple[str, Key, Sums]] = field(default_factory=list)  # id of the object, where it counts, what
    mark: str = field(default_factory=lambda: f"batch:{uuid.uuid4()}")

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return not self.sums and not self.once

    @property
    def size(self) -> int:
        """Parts that can be written apart from each other."""
        return len(self.sums) + len(self.once)

    @property
    def token_id(self) -> str:
        """The token of the first part."""
        return next(iter(self.sums)).token_id if self.sums else self.once[0][1].token_id

    def halves(self) -> "list[_Batch]":
        """Return the same in two batches with their own marks; nothing where it is one part."""
        if self.size < 2:
            return []
        parts = [*self.sums.items(), *self.once]
        return [_Batch.from_parts(part) for part in (parts[: len(parts) // 2], parts[len(parts) // 2 :])]

    @classmethod
    def from_parts(cls, parts: "list[Any]") -> "_Batch":
        """Return a batch of sums by key and of objects that count once."""
        batch = cls(once=[part for part in parts if len(part) == 3])
        batch.sums.update(part for part in parts if len(part) == 2)
        return batch

    def of_token(self, token_id: str) -> tuple[int, int]:
        """Model tokens and money."""
        found = [sums for key, sums in self.sums.items() if key.token_id == token_id]
        return sum(sums.total_tokens for sums in found), sum(sums.cost_nano_usd or 0 for sums in found)

    def of_project(self, project_id: str, since: date) -> int:
        """Money since that day."""
        wanted = [sums for key, sums in self.sums.items() if key.project_id == project_id and key.day >= since]
        return sum(sums.cost_nano_usd or 0 for sums in wanted)


class Rollup:
    """A worker's sums.

    Args:
        flushed: Called with the ids of tokens and of projects that were written, after the commit.
        failed: Called for each attempt that failed; what it was about is kept.
        now: The present instant.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        flushed: Callable[[set[str], set[str]], None] = lambda tokens, projects: None,
        failed: Callable[[], None] = lambda: None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._engine, self._flushed, self._failed, self._now = engine, flushed, failed, now
        self._pending, self._running = _Batch(), list[_Batch]()
        self._last_mark: str | None = None
        self._writes = threading.Lock()
        self._guard = threading.Lock()
        self._failures = WriteFailures(_log, "usage could not be written, it is kept")

    def add(self, key: Key, sums: Sums, once: str | None = None) -> None:
        """Add an exchange's. `once`: id of the object that the tokens belong to; its request counts anyway."""
        key = key._replace(model=key.model[:_NAME_CHARACTERS], provider=key.provider[:_NAME_CHARACTERS])
        with self._guard:
            if once is None:
                self._pending.sums[key].add(sums)
                return
            self._pending.sums[key].add(Sums(sums.requests))
            sums.requests = 0
            self._pending.once.append((once[:_OBJECT_CHARACTERS], key, sums))

    def pending_of_token(self, token_id: str) -> tuple[int, int]:
        """Model tokens and money (10⁻⁹ USD) that the database does not hold yet."""
        found = [batch.of_token(token_id) for batch in (self._pending, *self._running)]
        return sum(tokens for tokens, _ in found), sum(cost for _, cost in found)

    def pending_of_project(self, project_id: str, since: date) -> int:
        """Money of the project since that day that the database does not hold yet."""
        return sum(batch.of_project(project_id, since) for batch in (self._pending, *self._running))

    @contextmanager
    def at_rest(self) -> Iterator[bool]:
        """While no batch is being written; False after a quarter of a second: a slow database delays no request."""
        is_held = self._writes.acquire(timeout=_REST_LIMIT_S)
        try:
            yield is_held
        finally:
            if is_held:
                self._writes.release()

    def flush(self) -> bool:
        """Write what there is; what cannot be written now is kept for the next time. Never raises.

        Returns:
            Whether everything is written.
        """
        with self._writes:
            with self._guard:
                if not self._pending.is_empty:
                    self._running += _parts(self._pending)
                    self._pending = _Batch()
            while self._running:
                batch = self._running[0]
                try:
                    self._write(batch)
                except Exception as error:
                    self._failed()
                    if not is_value_fault(error):
                        self._failures.failed(error)
                        return False
                    self._running[:1] = batch.halves()
                    if batch.size == 1:
                        _log.error("usage of token %s is dropped: the database refuses its values", batch.token_id)
                    continue
                self._last_mark = batch.mark
                del self._running[0]
                keys = [*batch.sums, *(key for _, key, _ in batch.once)]
                self._flushed({key.token_id for key in keys}, {key.project_id for key in keys})
            self._failures.worked()
            return True

    def _write(self, batch: _Batch) -> None:
        now = self._now()
        with write_transaction(self._engine) as connection:
            if self._last_mark is not None:
                _forget(connection, self._last_mark)
            if not _noted(connection, "", batch.mark, now):
                return  # it was written, and the response to that was lost
            sums: dict[Key, Sums] = defaultdict(Sums)
            for key, found in batch.sums.items():
                sums[key].add(found)
            for object_id, key, found in sorted(batch.once, key=lambda item: (item[1].project_id, item[0])):
                if _noted(connection, key.project_id, object_id, now):
                    sums[key].add(found)
            connection.execute(
                _upsert(connection.dialect.name), [key._asdict() | sums[key].values for key in sorted(sums)]
            )
            _total(connection, sums)


def _parts(batch: _Batch) -> list[_Batch]:
    """In transactions of a bounded size."""
    keys, parts = sorted(batch.sums), list[_Batch]()
    for start in range(0, max(1, len(keys)), _ROWS_AT_ONCE):
        part = _Batch()
        part.sums.update({key: batch.sums[key] for key in keys[start : start + _ROWS_AT_ONCE]})
        parts.append(part)
    parts[-1].once = batch.once
    return parts


def _noted(connection: Connection, project_id: str, object_id: str, now: datetime) -> bool:
    """Note an object; False when it was there."""
    statement: Any
    match connection.dialect.name:
        case "postgresql":
            statement = postgresql.insert(_OBJECTS).on_conflict_do_nothing()
        case "sqlite":
            statement = sqlite.insert(_OBJECTS).on_conflict_do_nothing()
        case _:
            statement = insert(_OBJECTS).prefix_with("IGNORE")
    found = connection.execute(statement.values(project_id=project_id, object_id=object_id, counted_at=now))
    return bool(found.rowcount == 1)


def _forget(connection: Connection, mark: str) -> None:
    connection.execute(delete(_OBJECTS).where(_OBJECTS.c.project_id == "", _OBJECTS.c.object_id == mark))


@cache
def _upsert(dialect: str) -> Any:
    table: Table = _DAILY
    if dialect in ("mysql", "mariadb"):
        on_mysql = mysql.insert(table)
        return on_mysql.on_duplicate_key_update(_added(table, on_mysql.inserted))
    made = postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
    keys = [column.name for column in table.primary_key]
    return made.on_conflict_do_update(index_elements=keys, set_=_added(table, made.excluded))


def _added(table: Table, new: Any) -> dict[str, Any]:
    values: dict[str, Any] = {name: table.c[name] + new[name] for name in _COUNTS}
    cost = table.c.cost_nano_usd
    values["cost_nano_usd"] = case(
        (new.cost_nano_usd.is_(None), cost), else_=func.coalesce(cost, _ZERO) + new.cost_nano_usd
    )
    return values


def _total(connection: Connection, sums: dict[Key, Sums]) -> None:
    """Add to the tokens' own totals: the last statement, so that leases wait for these rows as shortly as can be."""
    totals: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for key, found in sums.items():
        totals[key.token_id][0] += found.total_tokens
        totals[key.token_id][1] += found.cost_nano_usd or 0
    changed = {token_id: total for token_id, total in sorted(totals.items()) if any(total)}
    if not changed:
        return
    is_changed = _TOKENS.c.id.in_(changed)
    if connection.dialect.name == "postgresql":  # locks in one order everywhere, as the others do: no deadlock
        is_changed = _TOKENS.c.id.in_(select(_TOKENS.c.id).where(is_changed).order_by(_TOKENS.c.id).with_for_update())
    tokens, cost = (case({id_: total[n] for id_, total in changed.items()}, value=_TOKENS.c.id) for n in (0, 1))
    connection.execute(
        update(_TOKENS)
        .where(is_changed)
        .values(
            total_tokens=_TOKENS.c.total_tokens + tokens,
            total_cost_nano_usd=_TOKENS.c.total_cost_nano_usd + cost,
            lease_version=_TOKENS.c.lease_version + 1,
        )
    )
