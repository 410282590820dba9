"""Provider keys sealed, sealed again, opened; tokens hashed: in batches, while servers serve.

Each row is changed only if it is still what was read, so that a key that is set meanwhile is never overwritten. A run
that was broken off is repeated: what is done is skipped.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Engine, text

from llm_proxy.crypto import KeyRing, UnopenableValue, digest, is_sealed, sealed_under
from llm_proxy.db.session import read_transaction, write_transaction

KEY_TABLES = ("projects", "project_keys")  # both bind a key to the row's id
BATCH = 100  # rows a transaction: longer ones stop admission on SQLite
_HASH = re.compile(r"[0-9a-f]{64}")
_V1 = "enc:v1:"

Progress = Callable[[int], None]
Change = Callable[[str, str], str | None]  # row id, what is stored → what shall be stored; None leaves it


@dataclass(slots=True)
class Sealed:
    """How values are stored now. `by_key` counts provider keys by key id; `enc:v1` for the older form."""

    by_key: dict[str, int] = field(default_factory=dict)
    plain_keys: int = 0
    hashed_tokens: int = 0
    plain_tokens: int = 0

    @property
    def sealed_keys(self) -> int:
        """Under whatever key."""
        return sum(self.by_key.values())


@dataclass(slots=True)
class Done:
    """What a run did. `broken` are ids of rows whose key does not open."""

    changed: int = 0
    skipped: int = 0
    broken: list[str] = field(default_factory=list)


def status(engine: Engine) -> Sealed:
    """Count all rows, in batches; changes nothing."""
    found = Sealed()
    for _, stored in _stored_keys(engine):
        if is_sealed(stored):
            name = sealed_under(stored) or ("enc:v1" if stored.startswith(_V1) else "unknown form")
            found.by_key[name] = found.by_key.get(name, 0) + 1
        elif stored:
            found.plain_keys += 1
    for _, stored in _rows(engine, "tokens", "token"):
        if _HASH.fullmatch(stored):
            found.hashed_tokens += 1
        else:
            found.plain_tokens += 1
    return found


def count(engine: Engine) -> int:
    """Return the number of provider keys, for a progress bar."""
    with read_transaction(engine) as connection:
        counts = [connection.execute(text(f"SELECT count(*) FROM {table}")) for table in KEY_TABLES]  # noqa: S608  (a name of this package)
        return sum(int(count.scalar_one()) for count in counts)


def encrypt(engine: Engine, ring: KeyRing, *, dry_run: bool = False, progress: Progress = lambda _: None) -> Done:
    """Seal what is in clear, under the current key."""

    def change(row_id: str, stored: str) -> str | None:
        return None if is_sealed(stored) or not stored else ring.seal(stored, row_id)

    return _change_all(engine, change, dry_run, progress)


def re_encrypt(engine: Engine, ring: KeyRing, *, dry_run: bool = False, progress: Progress = lambda _: None) -> Done:
    """Seal under the current key what is under another one, or in the older form; leaves what is in clear."""

    def change(row_id: str, stored: str) -> str | None:
        if not is_sealed(stored) or sealed_under(stored) == ring.current_id:
            return None
        return ring.seal(ring.open(stored, row_id), row_id)

    return _change_all(engine, change, dry_run, progress)


def decrypt(engine: Engine, ring: KeyRing, *, dry_run: bool = False, progress: Progress = lambda _: None) -> Done:
    """Store every provider key in clear again."""

    def change(row_id: str, stored: str) -> str | None:
        return ring.open(stored, row_id) if is_sealed(stored) else None

    return _change_all(engine, change, dry_run, progress)


def hash_tokens(engine: Engine, *, dry_run: bool = False) -> Done:
    """Store the hash in place of bearers that came with an import."""
    done = Done()
    for batch in _batches(engine, "tokens", "token"):
        plain = [(row_id, stored) for row_id, stored in batch if not _HASH.fullmatch(stored)]
        done.skipped += len(batch) - len(plain)
        if plain and not dry_run:
            statement = text(
                "UPDATE tokens SET token = :new, lease_version = lease_version + 1 WHERE id = :id AND token = :old"
            )
            with write_transaction(engine) as connection:
                connection.execute(statement, [{"new": digest(old), "id": row, "old": old} for row, old in plain])
        done.changed += len(plain)
    return done


def _change_all(engine: Engine, change: Change, dry_run: bool, progress: Progress) -> Done:
    done = Done()
    for table in KEY_TABLES:
        _change_table(engine, table, change, dry_run, progress, done)
    return done


def _change_table(engine: Engine, table: str, change: Change, dry_run: bool, progress: Progress, done: Done) -> None:
    for batch in _batches(engine, table, "api_key"):
        changes = []
        for row_id, stored in batch:
            try:
                new = change(row_id, stored)
            except UnopenableValue:
                done.broken.append(row_id)
                continue
            if new is None:
                done.skipped += 1
            else:
                changes.append({"new": new, "id": row_id, "old": stored})
        if changes and not dry_run:
            statement = text(f"UPDATE {table} SET api_key = :new WHERE id = :id AND api_key = :old")  # noqa: S608  (a name of this package)
            with write_transaction(engine) as connection:
                connection.execute(statement, changes)
        done.changed += len(changes)
        progress(len(batch))


def _stored_keys(engine: Engine) -> Iterator[tuple[str, str]]:
    for table in KEY_TABLES:
        yield from _rows(engine, table, "api_key")


def _rows(engine: Engine, table: str, column: str) -> Iterator[tuple[str, str]]:
    for batch in _batches(engine, table, column):
        yield from batch


def _batches(engine: Engine, table: str, column: str) -> Iterator[Sequence[tuple[str, str]]]:
    """Ids and values in the order of ids; no transaction is open between two batches."""
    query = text(f"SELECT id, {column} FROM {table} WHERE id > :after ORDER BY id LIMIT {BATCH}")  # noqa: S608  (a name of this package)
    after = ""
    while True:
        with read_transaction(engine) as connection:
            rows = connection.execute(query, {"after": after})
            batch = [(str(row[0]), str(row[1]).rstrip(" ")) for row in rows]  # PostgreSQL fills CHAR(64) up
        if not batch:
            return
        yield batch
        after = batch[-1][0]
