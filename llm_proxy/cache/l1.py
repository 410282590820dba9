"""Per-worker copies of hot entries, so that repeated hits do not read the shared store.

A copy is good as long as nothing was stored under its primary key, and nothing taken out of the store, by any worker:
each has a place in a memory-mapped table that each writer overwrites with a value that was never there. An entry that
was evicted for lack of room may still be served; each look-up checks whether an entry is fresh, purged or outdated by a
write.
"""

import itertools
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple
from zlib import crc32

from llm_proxy.cache.entry import Entry
from llm_proxy.runtime.mapped_file import MappedFile

_SLOTS: Final = 1 << 16
_EVERYTHING: Final = _SLOTS * 8
_MOST_KEYS: Final = 64  # under one primary key; more variants than that are read from the store
MOST_ENTRY_BYTES: Final = 65_536

Generation = tuple[bytes, bytes]


class GenerationTable:
    """A table of values in the server's folder, which change with what is stored under a key."""

    def __init__(self, folder: Path, name: str = "generations") -> None:
        self._file = MappedFile(folder / name, _EVERYTHING + 8)
        self._file.content_if_room()
        self._begin = os.urandom(4)
        self._numbers = itertools.count(1)

    def of(self, key: str) -> Generation:
        """Return what stands for the present state of a key; something new each time while the table has no room."""
        table = self._file.content_if_room()
        if table is None:
            return self._new(), b""
        place = crc32(key.encode()) % _SLOTS * 8
        return table[place : place + 8], table[_EVERYTHING:]

    def changed(self, key: str) -> None:
        """Something else is stored under it now."""
        place = crc32(key.encode()) % _SLOTS * 8
        table = self._file.content_if_room()
        if table is not None:
            table[place : place + 8] = self._new()

    def all_changed(self) -> None:
        """Something was taken out."""
        table = self._file.content_if_room()
        if table is not None:
            table[_EVERYTHING:] = self._new()

    def _new(self) -> bytes:
        return self._begin + (next(self._numbers) & 0xFFFFFFFF).to_bytes(4, "little")

    def close(self) -> None:
        """Unmap."""
        self._file.close()


class CopiesOfKey(NamedTuple):
    """What is known of one primary key: its lists of selecting fields, and entries (or that there is none) by key."""

    generation: Generation
    varies: Sequence[tuple[str, ...]]
    entries: dict[str, Entry | None]


class WorkerCache:
    """Bounded in bytes, least recently used out first.

    Args:
        most_bytes: Of this worker's copies.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.generations = GenerationTable(folder)
        self._most_bytes, self._bytes = most_bytes, 0
        self._known: OrderedDict[str, CopiesOfKey] = OrderedDict()

    def get(self, primary: str) -> CopiesOfKey | None:
        """Return what is known and still true."""
        copies = self._known.get(primary)
        if copies is None:
            return None
        if copies.generation != self.generations.of(primary):
            self._forget(primary)
            return None
        self._known.move_to_end(primary)
        return copies

    def keep(
        self, primary: str, generation: Generation, varies: Sequence[tuple[str, ...]], found: dict[str, Entry | None]
    ) -> None:
        """Remember what was read from the store while `generation` stood for it, which was noted before."""
        if any(entry is not None and entry.size_bytes > MOST_ENTRY_BYTES for entry in found.values()):
            return
        copies = self.get(primary)
        if copies is not None and copies.generation == generation and len(copies.entries) < _MOST_KEYS:
            self._bytes -= _bytes_of(copies)
            copies.entries.update(found)
        else:
            self._forget(primary)
            copies = self._known[primary] = CopiesOfKey(generation, varies, found)
        self._bytes += _bytes_of(copies)
        while self._bytes > self._most_bytes and self._known:
            self._forget(next(iter(self._known)))

    def _forget(self, primary: str) -> None:
        copies = self._known.pop(primary, None)
        if copies is not None:
            self._bytes -= _bytes_of(copies)

    def close(self) -> None:
        """Release the table."""
        self._known.clear()
        self.generations.close()


def _bytes_of(copies: CopiesOfKey) -> int:
    return 512 + sum(256 if entry is None else entry.size_bytes for entry in copies.entries.values())
