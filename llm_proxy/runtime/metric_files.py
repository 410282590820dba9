"""The files that a process counts its metrics in, in prometheus_client's format, without holes.

The library maps sparse files: a store into a hole of a full disk is SIGBUS, which ends the process. Here room is taken
before a file is mapped. While there is none, a process counts in memory, and writes the file when there is room again.
The counts of dead processes are added up with plain reads and writes, which a full disk makes fail and no more.
"""

import contextlib
import logging
import mmap
import os
import struct
from collections.abc import Iterator
from weakref import WeakSet

from prometheus_client import values
from prometheus_client.multiprocess import mark_process_dead

from llm_proxy.runtime.mapped_file import map_descriptor

_FIRST_BYTES = 1 << 16
_USED, _LENGTH, _VALUE = struct.Struct("i4x"), struct.Struct("i"), struct.Struct("dd")
_SUMMED = ("counter", "histogram", "summary")
_log = logging.getLogger(__name__)
_open: "WeakSet[CountFile]" = WeakSet()
_unfolded: set[int] = set()  # dead processes whose counts found no room in the file of sums


class CountFile:
    """Numbers by key: what prometheus_client calls MmapedDict. `_m` and `_positions` are read on the hot path."""

    def __init__(self, path: str, read_mode: bool = False) -> None:
        self._path = path
        self._positions: dict[str, int] = {}
        found = _content(path)
        self._used, self._capacity = max(len(found), _USED.size), _FIRST_BYTES
        while self._capacity < self._used:
            self._capacity *= 2
        self._m = mmap.mmap(-1, self._capacity)
        self._m[: len(found)] = found
        self._m[: _USED.size] = _USED.pack(self._used)
        self._positions = {key: at for key, _, at in _entries(found)}
        self.is_in_memory = True
        _open.add(self)
        if not self.settle():
            _log.warning("%s: no room on the disk, metrics of this process are counted in memory", path)

    def settle(self) -> bool:
        """Move what is counted in memory to the file; return whether it is there."""
        if self.is_in_memory:
            mapped = self._mapped(self._capacity)
            if mapped is None:
                return False
            mapped[_USED.size : self._used] = self._m[_USED.size : self._used]
            mapped[: _USED.size] = _USED.pack(self._used)  # last: a reader sees the old numbers, or all new ones
            self._m, self.is_in_memory = mapped, False
        return True

    def read_value(self, key: str) -> tuple[float, float]:
        """Return the number and its time; a new key begins with zeros."""
        if key not in self._positions:
            self._add(key)
        number, at = _VALUE.unpack_from(self._m, self._positions[key])
        return number, at

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        """Set the number and its time."""
        if key not in self._positions:
            self._add(key)
        _VALUE.pack_into(self._m, self._positions[key], value, timestamp)

    def close(self) -> None:
        """Unmap; the file stays."""
        _open.discard(self)
        self._m.close()

    def _add(self, key: str) -> None:
        entry = _entry(key, 0.0, 0.0)
        if self._used + len(entry) > self._capacity:
            self._grow(self._used + len(entry))
        self._m[self._used : self._used + len(entry)] = entry
        self._used += len(entry)
        self._positions[key] = self._used - _VALUE.size
        self._m[: _USED.size] = _USED.pack(self._used)

    def _grow(self, needed: int) -> None:
        while self._capacity < needed:
            self._capacity *= 2
        grown = None if self.is_in_memory else self._mapped(self._capacity)
        if grown is None:
            grown = mmap.mmap(-1, self._capacity)
            grown[: self._used] = self._m[: self._used]
            if not self.is_in_memory:
                _log.warning("%s: no room on the disk, metrics of this process are counted in memory", self._path)
            self.is_in_memory = True
        self._m = grown

    def _mapped(self, size: int) -> mmap.mmap | None:
        """Return a map of the file, None without room. A new file gets its name when it can be read."""
        is_new = not os.path.exists(self._path)
        name = f"{self._path}.new" if is_new else self._path
        try:
            descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError:
            return None
        try:
            mapped = map_descriptor(descriptor, size)
            if is_new:
                mapped[: _USED.size] = _USED.pack(_USED.size)
                os.rename(name, self._path)
            return mapped
        except OSError:
            if is_new:
                with contextlib.suppress(OSError):
                    os.unlink(name)
            return None
        finally:
            os.close(descriptor)


def install() -> None:
    """Have prometheus_client count in such files. To be called before the first metric is made."""
    setattr(values, "MmapedDict", CountFile)  # noqa: B010  (the stubs do not export the name)


def settle_all() -> None:
    """Write to the disk what is counted in memory, where there is room now."""
    for file in list(_open):
        if file.is_in_memory and file.settle():
            _log.info("%s: there is room on the disk again, metrics are counted in the file", file._path)


def fold(folder: str, pid: int) -> None:
    """Add a dead process's counts to the file of all dead ones; gauges of live processes go.

    What finds no room stays in the process's own file, where it counts as before, and is tried again with the next.
    """
    mark_process_dead(pid, folder)  # type: ignore[no-untyped-call]
    _unfolded.add(pid)
    for each in sorted(_unfolded):
        try:
            for kind in _SUMMED:
                _fold(os.path.join(folder, f"{kind}_{each}.db"), os.path.join(folder, f"{kind}_0.db"))
        except OSError as exc:
            _log.warning("the metrics of worker %s stay in their own file: %s", each, exc.strerror)
        else:
            _unfolded.discard(each)


def _fold(dead: str, sums: str) -> None:
    if not os.path.exists(dead):
        return
    totals = {key: value for key, value, _ in _entries(_content(sums))}
    for key, value, _ in _entries(_content(dead)):
        totals[key] = totals.get(key, 0.0) + value
    entries = b"".join(_entry(key, value, 0.0) for key, value in totals.items())
    new = f"{sums}.new"
    try:
        with open(new, "wb") as file:
            file.write(_USED.pack(_USED.size + len(entries)) + entries)
        os.replace(new, sums)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise
    os.unlink(dead)


def _content(path: str) -> bytes:
    """Return the used part of a file; nothing where there is no file, or one that never got room."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return b""
    return data[: _USED.unpack_from(data)[0]] if len(data) >= _USED.size else b""


def _entry(key: str, value: float, timestamp: float) -> bytes:
    encoded = key.encode()
    padding = b" " * (8 - (len(encoded) + _LENGTH.size) % 8)
    return _LENGTH.pack(len(encoded)) + encoded + padding + _VALUE.pack(value, timestamp)


def _entries(data: bytes) -> Iterator[tuple[str, float, int]]:
    """Yield each key with its number and where that stands. A part of an entry at the end is left out."""
    at = _USED.size
    while at + _LENGTH.size <= len(data):
        length = _LENGTH.unpack_from(data, at)[0]
        padded = length + 8 - (length + _LENGTH.size) % 8
        number_at = at + _LENGTH.size + padded
        if length <= 0 or number_at + _VALUE.size > len(data):
            return
        key = data[at + _LENGTH.size : at + _LENGTH.size + length].decode("utf-8", "replace")
        yield key, _VALUE.unpack_from(data, number_at)[0], number_at
        at = number_at + _VALUE.size
