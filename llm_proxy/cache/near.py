"""Copies of a worker's own in front of the machine's store: what is asked for again and again is not read again.

A copy is good as long as nothing was stored under its primary key, and nothing taken out of the store, by any worker:
each has a mark in a memory-mapped table that each writer overwrites with a value that was never there. An
entry that merely went for lack of room may still be served; whether it is fresh, purged or outdated by a write is asked
of every entry anyway.
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


class Generations:
    """A table of marks in the server's folder."""

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


class Near(NamedTuple):
    """What is known of one primary key: its lists of selecting fields, and entries (or that there is none) by key."""

    generation: Generation
    varies: Sequence[tuple[str, ...]]
    entries: dict[str, Entry | None]


class NearCopies:
    """Bounded in bytes, least recently used out first.

    Args:
        most_bytes: Of this worker's copies.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.generations = Generations(folder)
        self._most_bytes, self._bytes = most_bytes, 0
        self._known: OrderedDict[str, Near] = OrderedDict()

    def get(self, primary: str) -> Near | None:
        """Return what is known and still true."""
        near = self._known.get(primary)
        if near is None:
            return None
        if near.generation != self.generations.of(primary):
            self._forget(primary)
            return None
        self._known.move_to_end(primary)
        return near

    def keep(
        self, primary: str, generation: Generation, varies: Sequence[tuple[str, ...]], found: dict[str, Entry | None]
    ) -> None:
        """Remember what was read from the store while `generation` stood for it, which was noted before."""
        if any(entry is not None and entry.size_bytes > MOST_ENTRY_BYTES for entry in found.values()):
            return
        near = self.get(primary)
        if near is not None and near.generation == generation and len(near.entries) < _MOST_KEYS:
            self._bytes -= _bytes_of(near)
            near.entries.update(found)
        else:
            self._forget(primary)
            near = self._known[primary] = Near(generation, varies, found)
        self._bytes += _bytes_of(near)
        while self._bytes > self._most_bytes and self._known:
            self._forget(next(iter(self._known)))

    def _forget(self, primary: str) -> None:
        near = self._known.pop(primary, None)
        if near is not None:
            self._bytes -= _bytes_of(near)

    def close(self) -> None:
        """Release the table."""
        self._known.clear()
        self.generations.close()


def _bytes_of(near: Near) -> int:
    return 512 + sum(256 if entry is None else entry.size_bytes for entry in near.entries.values())
