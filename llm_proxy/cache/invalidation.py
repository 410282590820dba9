"""When paths were last written to by unsafe methods, for all workers of a machine (RFC 9111 §4.4).

A table of instants in a memory-mapped file. A write is recorded for its path and the path's parents; a stored GET
is used only if its request left after the last write to its path. So an ordinary POST costs a few stores to memory,
whatever is cached, and a stored response that was fetched before a write but arrives after it is not used either. Each
path has two places: only one that is recorded in both was written to, or shares them with others that were.
"""

import logging
import math
import struct
import time
from functools import lru_cache
from pathlib import Path
from typing import Final
from zlib import adler32, crc32

from llm_proxy.runtime.mapped_file import MappedFile

_SLOTS: Final = 1 << 18
_ENABLED: Final = _SLOTS * 8
_BYTES: Final = _ENABLED + 1
_INSTANT: Final = struct.Struct("d")
_log = logging.getLogger(__name__)


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


class WriteTimes:
    """The table in `folder`; workers that open it see each other's write times at once."""

    def __init__(self, folder: Path) -> None:
        self._file = MappedFile(folder / "marks", _BYTES)
        if self._file.content_if_room() is None:
            _log.error("no room on the disk for the cache's table of writes: nothing is served from the cache")

    def enable(self) -> None:
        """Note writes from now on: a response is about to be fetched that may be stored."""
        table = self._file.content_if_room()
        if table is not None and not table[_ENABLED]:
            table[_ENABLED] = 1

    @property
    def is_enabled(self) -> bool:
        """Whether there may be anything that a write makes old; before that, writes need not be noted."""
        table = self._file.content_if_room()
        return table is not None and bool(table[_ENABLED])

    def record(self, project: str, path: str) -> None:
        """Record that a write to `path` of `project` succeeded now.

        Very long paths are not remembered, so cost a little more.
        """
        now, table, pack = time.time(), self._file.content_if_room(), _INSTANT.pack_into
        if table is None:  # no worker of the machine has room for it, so none serves what it stored
            return
        for place in _upwards(project, path) if len(path) <= 256 else _upwards.__wrapped__(project, path):
            pack(table, place, now)

    def last_write(self, project: str, path: str) -> float:
        """When that happened last, in seconds since the epoch; 0 = never. Later than the truth at the worst."""
        table = self._file.content_if_room()
        if table is None:
            return math.inf
        one, other = _places(project, path)
        read = _INSTANT.unpack_from
        found: float = min(read(table, one)[0], read(table, other)[0])
        return found

    def close(self) -> None:
        """Unmap."""
        self._file.close()
