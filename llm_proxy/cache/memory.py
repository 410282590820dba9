"""The store of one machine: an SQLite file in the server's folder, shared by all workers, bounded, least recently used
out first.

SQLite is what keeps it whole when a worker is killed in the middle of a write. The file lies in a temporary folder and
is never synced: what it costs is memory of the page cache, as a store in memory would.
"""

import contextlib
import logging
import sqlite3
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from llm_proxy.cache.entry import Entry, from_meta, to_meta
from llm_proxy.cache.key import variant_key
from llm_proxy.cache.l1 import CopiesOfKey, WorkerCache
from llm_proxy.cache.scopes import Scope
from llm_proxy.cache.store import MOST_KEPT_S, MOST_VARIES, Fields
from llm_proxy.runtime.mapped_file import MappedFile

LEAST_ENTRIES = 1024
_BYTES_AN_ENTRY = 1024  # the bound of entries follows from that of bytes
_L1_PART = 16  # of the store's room, for each worker's own copies
_WRITE_LIMIT_S = 0.05  # longest wait for another worker's write
_TOUCH_EACH_S = 1.0
_TOLD_EACH_S = 10.0  # a full disk fails each store
_ROOM = 0.9  # an eviction goes down to this part of the bound, so that not every store has to evict
_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
 key TEXT PRIMARY KEY, prim TEXT NOT NULL, vary TEXT NOT NULL, target TEXT NOT NULL, project TEXT NOT NULL,
 number INTEGER NOT NULL, expires REAL NOT NULL, used REAL NOT NULL, size INTEGER NOT NULL,
 meta BLOB NOT NULL, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS by_prim ON entries (prim, vary);
CREATE INDEX IF NOT EXISTS by_used ON entries (used, size);
CREATE INDEX IF NOT EXISTS by_expires ON entries (expires);
CREATE TABLE IF NOT EXISTS total (bytes INTEGER NOT NULL, entries INTEGER NOT NULL);
INSERT INTO total SELECT 0, 0 WHERE NOT EXISTS (SELECT 1 FROM total);
CREATE TRIGGER IF NOT EXISTS added AFTER INSERT ON entries
 BEGIN UPDATE total SET bytes = bytes + NEW.size, entries = entries + 1; END;
CREATE TRIGGER IF NOT EXISTS removed AFTER DELETE ON entries
 BEGIN UPDATE total SET bytes = bytes - OLD.size, entries = entries - 1; END;
"""
_VARIES = f"SELECT DISTINCT vary FROM entries WHERE prim = ? LIMIT {MOST_VARIES}"  # noqa: S608
_READ = "SELECT meta, body FROM entries WHERE key = ? AND expires > ?"
_IS_ANY_OLD = "SELECT 1 FROM entries WHERE expires <= ? LIMIT 1"
_FREE_OLD = "DELETE FROM entries WHERE expires <= ?"
_PUT = "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_NUMBER = struct.Struct("<q")
_log = logging.getLogger(__name__)


class MemoryStore:
    """One worker's way to the machine's store.

    Args:
        folder: The server's folder.
        most_bytes: HTTP_CACHE_MEMORY_MAX_BYTES.
        failed: Called for each failure, for a counter.
        evicted: Gets the number of entries that went for lack of room.
        clock: Seconds since the epoch.
    """

    is_local = True

    def __init__(
        self,
        folder: Path,
        *,
        most_bytes: int,
        failed: Callable[[], None] = lambda: None,
        evicted: Callable[[int], None] = lambda number: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = folder / "store.db"
        self._most_bytes, self._most_entries = most_bytes, max(LEAST_ENTRIES, most_bytes // _BYTES_AN_ENTRY)
        self._failing, self._evicted, self._clock = _Failing(failed), evicted, clock
        self._touched: dict[str, float] = {}
        self._touched_at = 0.0
        self._lock = threading.RLock()
        self._kept: sqlite3.Connection | None = None
        self._purged = _Number(folder)
        self._l1 = WorkerCache(folder, most_bytes // _L1_PART)

    @property
    def is_left_alone(self) -> bool:
        """See Store: a file is tried again at once."""
        return False

    # -- reading ------------------------------------------------------------------------------------------------------

    def find(self, primary: str, fields: Fields) -> list[Entry]:
        """See Store."""
        now = self._clock()
        copies = self._l1.get(primary)
        found = None if copies is None else self._among(copies, primary, fields)
        if found is None:
            found = self._read(primary, fields, now)
        for entry in found:
            self._touched[entry.key] = now
        if len(found) > 1:
            found.sort(key=lambda entry: entry.received_at, reverse=True)
        if found and now - self._touched_at > _TOUCH_EACH_S:
            self.flush()
        return found

    @staticmethod
    def _among(copies: CopiesOfKey, primary: str, fields: Fields) -> list[Entry] | None:
        """Return the same from this worker's copies; None when they do not tell."""
        found = []
        for vary in copies.varies:
            key = variant_key(primary, vary, fields)
            if key not in copies.entries:
                return None
            entry = copies.entries[key]
            if entry is not None:
                found.append(entry)
        return found

    def _read(self, primary: str, fields: Fields, now: float) -> list[Entry]:
        generation = self._l1.generations.of(primary)
        read: dict[str, Entry | None] = {}
        varies: list[tuple[str, ...]] = []
        with self._failing, self._lock:
            execute = self._connection().execute
            for (names,) in execute(_VARIES, (primary,)).fetchall():
                vary = tuple(names.split(",")) if names else ()
                key = variant_key(primary, vary, fields)
                row = execute(_READ, (key, now)).fetchone()
                varies.append(vary)
                read[key] = None if row is None else from_meta(row[0], row[1])
            self._l1.keep(primary, generation, varies, read)  # that there is nothing, too
        return [entry for entry in read.values() if entry is not None]

    def stored_bytes(self) -> float:
        """See Store. It is asked once a second: what is too old to be of use goes meanwhile."""
        now = self._clock()
        with self._failing, self._lock:
            if self._connection().execute(_IS_ANY_OLD, (now,)).fetchone() is not None:
                with self._writing() as execute:
                    execute(_FREE_OLD, (now,))
        with self._failing, self._lock:
            return float(self._connection().execute("SELECT bytes FROM total").fetchone()[0])
        return 0.0

    def count(self) -> int:
        """How many entries it holds."""
        with self._failing, self._lock:
            return int(self._connection().execute("SELECT entries FROM total").fetchone()[0])
        return 0

    # -- writing ------------------------------------------------------------------------------------------------------

    def put(self, entry: Entry, keep_s: float) -> bool:
        """See Store."""
        size = entry.size_bytes
        if size > self._most_bytes:
            return False
        now = self._clock()
        row = (
            entry.key, entry.primary, ",".join(entry.vary), entry.target, entry.project, entry.number,
            now + min(keep_s, MOST_KEPT_S), now, size, to_meta(entry), entry.content,
        )  # fmt: skip
        with self._failing:
            with self._writing() as execute:
                execute("DELETE FROM entries WHERE key = ?", (entry.key,))
                execute(_PUT, row)
                self._make_room(execute, now)
            self._l1.generations.changed(entry.primary)  # committed: a copy made from now on is of this entry
            return True
        return False

    def _make_room(self, execute: Callable[..., Any], now: float) -> None:
        held, number = execute("SELECT bytes, entries FROM total").fetchone()
        if held <= self._most_bytes and number <= self._most_entries:
            return
        execute(_FREE_OLD, (now,))
        self._write_touched(execute)
        held, number = execute("SELECT bytes, entries FROM total").fetchone()
        if held <= self._most_bytes and number <= self._most_entries:
            return
        over_bytes, over_entries = held - _ROOM * self._most_bytes, number - _ROOM * self._most_entries
        gone = []
        for key, size in execute("SELECT key, size FROM entries ORDER BY used"):
            if over_bytes <= 0 and over_entries <= 0:
                break
            gone.append((key,))
            over_bytes, over_entries = over_bytes - size, over_entries - 1
        self._connection().executemany("DELETE FROM entries WHERE key = ?", gone)
        self._evicted(len(gone))

    def remove(self, scope: Scope, number: int) -> int:
        """See Store."""
        where, values = _where(scope)
        removed = 0
        with self._failing, self._writing() as execute:
            execute(_FREE_OLD, (self._clock(),))  # these could not be served any more: they do not count
            removed = int(execute(f"DELETE FROM entries WHERE number < ? AND {where}", (number, *values)).rowcount)  # noqa: S608
        if removed:
            self._l1.generations.all_changed()
        return removed

    def forget_path(self, project: str, path: str) -> None:
        """See Store. The write times of this machine do it already."""

    def announced(self) -> int:
        """See Store."""
        return self._purged.read()

    def announce(self, number: int) -> None:
        """See Store."""
        with self._failing:
            self._purged.raise_to(number)

    def flush(self) -> None:
        """See Store: when entries were used last."""
        self._touched_at = self._clock()
        if self._touched:
            with self._failing, self._writing() as execute:
                self._write_touched(execute)

    def _write_touched(self, execute: Callable[..., Any]) -> None:
        touched, self._touched = self._touched, {}
        for key, used in touched.items():
            execute("UPDATE entries SET used = MAX(used, ?) WHERE key = ?", (used, key))

    def close(self) -> None:
        """See Store."""
        with self._lock:
            if self._kept is not None:
                self._kept.close()
                self._kept = None
        self._purged.close()
        self._l1.close()

    # -- the file -----------------------------------------------------------------------------------------------------

    def _connection(self) -> sqlite3.Connection:
        if self._kept is None:
            kept = sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False)
            for pragma in ("journal_mode=WAL", "synchronous=OFF", "temp_store=MEMORY"):
                self._patiently(lambda pragma=pragma: kept.execute(f"PRAGMA {pragma}"))  # type: ignore[misc]
            self._patiently(lambda: kept.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;"))
            self._kept = kept
        return self._kept

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Callable[..., Any]]:
        with self._lock:
            connection = self._connection()
            self._patiently(lambda: connection.execute("BEGIN IMMEDIATE"))
            try:
                yield connection.execute
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    @staticmethod
    def _patiently(write: Callable[[], Any]) -> None:
        """Another worker may be writing: SQLite's own wait would stop every greenlet, this one lets them run."""
        until = time.monotonic() + _WRITE_LIMIT_S
        while True:
            try:
                write()
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > until:
                    raise
            time.sleep(0.001)


class _Failing:
    """A store that fails is a store without the entry: counts and logs, and lets the caller go on."""

    def __init__(self, failed: Callable[[], None]) -> None:
        self._failed, self._told_at = failed, -_TOLD_EACH_S

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, sqlite3.Error | ValueError | OSError):
            return False
        self._failed()
        if time.monotonic() - self._told_at >= _TOLD_EACH_S:
            self._told_at = time.monotonic()
            _log.warning("the response cache's file failed: %s", error)
        return True


def _where(scope: Scope) -> tuple[str, Sequence[Any]]:
    if scope.is_all:
        return "1", ()
    parts: list[str] = []
    values: list[Any] = []
    for column, value in (("project", scope.project_in_keys), ("key", scope.key), ("target", scope.target)):
        if value is not None:
            parts.append(f"{column} = ?")
            values.append(value)
    if scope.prefix is not None:
        of_path = scope.prefix.startswith("/")
        column = "substr(target, instr(target, ' ') + 1, ?)" if of_path else "substr(key, 1, ?)"
        parts.append(f"{column} = ?")
        values += [len(scope.prefix), scope.prefix]
    return " AND ".join(parts) or "0", values


class _Number:
    """The highest purge that a worker of this machine has committed, where all of them see it."""

    def __init__(self, folder: Path) -> None:
        self._file = MappedFile(folder / "purged", _NUMBER.size)

    def read(self) -> int:
        """Return the number; 0 where the file is not there or has no room for it."""
        table = self._file.content_if_room()
        number: int = 0 if table is None else _NUMBER.unpack_from(table)[0]
        return number

    def raise_to(self, number: int) -> None:
        """Raise the number. Raises OSError without room; the others learn of the purge from the database then."""
        with self._file.locked() as table:
            if number > _NUMBER.unpack_from(table)[0]:
                _NUMBER.pack_into(table, 0, number)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
