"""When paths were last written to by unsafe methods, for all workers of a machine (RFC 9111 §4.4, DP-158).

A table of instants in a memory-mapped file. A write marks its path and the path's parents; a stored GET is used only
if its request left after the last mark of its path. So an ordinary POST costs a few stores to memory, whatever is
cached, and a stored answer that was fetched before a write but arrives after it is not used either. Each path has two
places: only one that is marked in both was written to, or shares them with others that were, and is fetched again.
"""

import mmap
import os
import struct
import time
from functools import lru_cache
from pathlib import Path
from typing import Final
from zlib import adler32, crc32

_SLOTS: Final = 1 << 18
_ARMED: Final = _SLOTS * 8
_BYTES: Final = _ARMED + 1
_INSTANT: Final = struct.Struct("d")


@lru_cache(4096)
def _places(project: str, path: str) -> tuple[int, int]:
    name = f"{project} {path}".encode("utf-8", "surrogateescape")
    return crc32(name) % _SLOTS * 8, crc32(name, adler32(name)) % _SLOTS * 8


@lru_cache(1024)
def _upwards(project: str, path: str) -> tuple[int, ...]:
    """Places of a path and its parents, the root left out."""
    found: list[int] = []
    while path and path != "/":
        found += _places(project, path)
        path = path.rstrip("/").rpartition("/")[0]
    return tuple(found)


class Marks:
    """The table in `folder`; workers that open it see each other's marks at once."""

    def __init__(self, folder: Path) -> None:
        descriptor = os.open(folder / "marks", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, _BYTES)  # sparse: pages that nobody marks take no room
            self._table = mmap.mmap(descriptor, _BYTES)
        finally:
            os.close(descriptor)

    def arm(self) -> None:
        """An answer is about to be fetched that may be stored: from now on writes are noted."""
        if not self._table[_ARMED]:
            self._table[_ARMED] = 1

    @property
    def is_armed(self) -> bool:
        """Whether there may be anything that a write makes old; before that, writes need not be noted."""
        return bool(self._table[_ARMED])

    def mark(self, project: str, path: str) -> None:
        """A write to `path` of `project` succeeded now. Very long paths are not remembered, so cost a little more."""
        now, table, pack = time.time(), self._table, _INSTANT.pack_into
        for place in _upwards(project, path) if len(path) <= 256 else _upwards.__wrapped__(project, path):
            pack(table, place, now)

    def last(self, project: str, path: str) -> float:
        """When that happened last, in seconds since the epoch; 0 = never. Later than the truth at the worst."""
        one, other = _places(project, path)
        read = _INSTANT.unpack_from
        found: float = min(read(self._table, one)[0], read(self._table, other)[0])
        return found

    def close(self) -> None:
        """Unmap."""
        self._table.close()
