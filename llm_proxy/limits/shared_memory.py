"""Windows shared by all workers of one machine: a memory-mapped file, changed under a file lock.

What a worker that is killed was writing is one bucket's two numbers. The file is a table of 65,536 places in groups of
eight; a key has its place in one group, and where that is full the window that would have ended first makes room.
"""

import hashlib
import mmap
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from llm_proxy.limits.window import ADMITTED, Count, Verdict, Window, bucket, has_room
from llm_proxy.runtime.mapped_file import MappedFile

FILE = "windows.1"  # the number is the layout's
_SLOT = struct.Struct("<16sqqqq")  # key, first second of the bucket, its count, that of the one before, length
_SLOT_BYTES, _WAYS, _GROUPS = 64, 8, 8192
_BYTES = _SLOT_BYTES * _WAYS * _GROUPS


class SharedMemoryStore:
    """See `window.Store`.

    Args:
        folder: Local, writable, shared by all workers.
        clock: Seconds since 1970.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._file, self._clock = MappedFile(folder / FILE, _BYTES), clock

    def take(self, windows: Sequence[Window]) -> Verdict:
        """See `Store`."""
        now = self._clock()
        with self._file.locked() as table:
            for index, window in enumerate(windows):
                start, elapsed_s = bucket(now, window.window_s)
                _, current, previous = _find(table, window, start)
                count = Count(current, previous, elapsed_s)
                if not has_room(count, window):
                    return Verdict(index, count)
            _add(table, windows, now)
        return ADMITTED

    def add(self, windows: Sequence[Window]) -> None:
        """See `Store`."""
        now = self._clock()
        with self._file.locked() as table:
            _add(table, windows, now)

    def close(self) -> None:
        """Unmap; the file stays for the others."""
        self._file.close()


_digests: dict[tuple[str, int], bytes] = {}
_MOST_DIGESTS = 10_000


def _digest(window: Window) -> bytes:
    """16 bytes that stand for key and length; windows of two lengths are two windows."""
    name = (window.key, window.window_s)
    found = _digests.get(name)
    if found is None:
        if len(_digests) >= _MOST_DIGESTS:
            _digests.clear()
        text = f"{window.window_s}:{window.key}".encode()
        found = _digests[name] = hashlib.blake2b(text, digest_size=16).digest()
    return found


def _add(table: mmap.mmap, windows: Sequence[Window], now: float) -> None:
    for window in windows:
        if window.amount:
            start, _ = bucket(now, window.window_s)
            place, current, previous = _find(table, window, start)  # again: two new windows may share a group
            values = (start, current + window.amount, previous, window.window_s)
            _SLOT.pack_into(table, place, _digest(window), *values)


def _find(table: mmap.mmap, window: Window, start: int) -> tuple[int, int, int]:
    """Return the key's place, and its two counts as they stand in the bucket that begins at `start`."""
    key = _digest(window)
    first = int.from_bytes(key[:4], "little") % _GROUPS * _WAYS * _SLOT_BYTES
    freest, freest_end = first, 1 << 62
    for place in range(first, first + _WAYS * _SLOT_BYTES, _SLOT_BYTES):
        found, began, current, previous, window_s = _SLOT.unpack_from(table, place)
        if found == key:
            if began == start:
                return place, current, previous
            if began == start - window.window_s:
                return place, 0, current
            if began > start:  # the clock went back: what was counted still counts
                return place, current, previous
            return place, 0, 0
        if began + 2 * window_s < freest_end:
            freest, freest_end = place, began + 2 * window_s
    return freest, 0, 0
