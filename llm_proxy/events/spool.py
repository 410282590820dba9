"""Events on disk while the bus cannot take them (docs/adr/0081).

A folder for the machine. Each worker appends to its own segments and keeps a lock on its own file for as long
as it lives; a lock that can be had is a dead worker's, and the process that gets it takes over its segments. The kernel
releases locks however a process ends, so nothing needs to be told that it died.

A segment is created at its full size, under the machine's lock, so the sum of all sizes is what is in use or promised,
and the bound holds whatever the workers do at once. Within a segment come a head (magic, position of the next record
to replay) and records (length, CRC-32, text); zeros, or a record that does not check, are the end. Nothing is forced
to the disk: a crash of the machine loses what the kernel still held, a crash of the process does not.
"""

import contextlib
import errno
import fcntl
import logging
import os
import re
import struct
import time
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llm_proxy.settings import Settings

log = logging.getLogger(__name__)

_MAGIC = b"LPSPOOL1"
_HEAD = struct.Struct(">8sQ")
_RECORD = struct.Struct(">II")
_FIRST = 1 << 32  # numbering starts in the middle, so that a batch can be put back in front
_NAME = re.compile(r"([0-9a-f-]+)\.([0-9]{12})\.seg")
_LEAST_SEGMENT_BYTES = 64 * 1024
_MOST_SEGMENT_BYTES = 4 * 1024 * 1024
_FULL_AGAIN_S = 0.2  # how long "full" is believed before the folder is counted again
_MODE = 0o600


class SpoolFull(Exception):
    """The machine's bound is reached."""


@dataclass(slots=True)
class _Segment:
    """One file. `read_at` and `end` are offsets; `end` is where the next record goes."""

    path: Path
    descriptor: int
    size: int
    read_at: int
    end: int
    number: int

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)


class Owner:
    """One worker's segments, under its lock: its own, or a dead worker's that was taken up."""

    def __init__(self, folder: Path, name: str, lock: int) -> None:
        self._folder, self.name, self._lock = folder, name, lock
        self.segments: deque[_Segment] = deque()
        self.damaged = 0

    @property
    def pending_bytes(self) -> int:
        """Not yet replayed."""
        return sum(segment.end - segment.read_at for segment in self.segments)

    def load(self) -> None:
        """Open what is there already."""
        numbered = []
        for path in self._folder.iterdir():
            found = _NAME.fullmatch(path.name)
            if found is not None and found[1] == self.name:
                numbered.append((int(found[2]), path))
        for number, path in sorted(numbered):
            segment = self._opened(path, number)
            if segment is not None:
                self.segments.append(segment)

    def _opened(self, path: Path, number: int) -> _Segment | None:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        size = os.fstat(descriptor).st_size
        head = os.pread(descriptor, _HEAD.size, 0)
        if len(head) < _HEAD.size or not head.startswith(_MAGIC):
            os.close(descriptor)
            path.unlink(missing_ok=True)  # died between creating it and its first record
            return None
        return _Segment(path, descriptor, size, _HEAD.unpack(head)[1], size, number)  # where it ends shows in reading

    def create(self, number: int, size: int) -> _Segment:
        """Return a new, empty segment of that size. Raises OSError."""
        path = self._folder / f"{self.name}.{number:012d}.seg"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        try:
            os.ftruncate(descriptor, size)
            os.pwrite(descriptor, _HEAD.pack(_MAGIC, _HEAD.size), 0)
        except OSError:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise
        return _Segment(path, descriptor, size, _HEAD.size, _HEAD.size, number)

    def peek(self, most: int, most_bytes: int) -> tuple[list[bytes], int]:
        """Return the oldest records and the position after them; at least one record while there is any."""
        while self.segments:
            segment = self.segments[0]
            at, found, held = segment.read_at, list[bytes](), 0
            while len(found) < most and held < most_bytes and at < segment.end:
                record = _read(segment, at)
                if record is None:
                    self.damaged += any(os.pread(segment.descriptor, _RECORD.size, at))  # half a record, not the end
                    segment.end = at
                    break
                found.append(record)
                held += len(record)
                at += _RECORD.size + len(record)
            if found:
                return found, at
            self.drop_first()
        return [], 0

    def advance(self, at: int) -> None:
        """Drop the records before the position, which were delivered."""
        segment = self.segments[0]
        segment.read_at = at
        if at >= segment.end:
            self.drop_first()
        else:
            os.pwrite(segment.descriptor, _HEAD.pack(_MAGIC, at), 0)

    def drop_first(self) -> None:
        """Remove the oldest segment."""
        segment = self.segments.popleft()
        segment.close()
        segment.path.unlink(missing_ok=True)

    def release(self) -> None:
        """Release the files and the lock; its file goes when nothing is left to take up."""
        for segment in self.segments:
            segment.close()
        if not self.segments:
            (self._folder / f"{self.name}.lock").unlink(missing_ok=True)
        self.segments.clear()
        os.close(self._lock)


def _read(segment: _Segment, at: int) -> bytes | None:
    """Return the record at the offset; None where none is whole."""
    head = os.pread(segment.descriptor, _RECORD.size, at)
    if len(head) < _RECORD.size:
        return None
    length, checksum = _RECORD.unpack(head)
    if not length or at + _RECORD.size + length > segment.size:
        return None
    record = os.pread(segment.descriptor, length, at + _RECORD.size)
    return record if len(record) == length and zlib.crc32(record) == checksum else None


class Spool:
    """A worker's queue on disk, and the ones of workers that died.

    Args:
        folder: Created with mode 0700 when it is missing.
        max_bytes: For all files of the folder together.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._segment_bytes = min(max(max_bytes // 32, _LEAST_SEGMENT_BYTES), _MOST_SEGMENT_BYTES, max_bytes)
        self._own: Owner | None = None
        self._adopted: list[Owner] = []
        self._full_until = 0.0
        self._peeked: tuple[Owner, int] | None = None

    @property
    def is_empty(self) -> bool:
        """Return whether nothing waits for replay, own or adopted."""
        return not self._adopted and (self._own is None or not self._own.pending_bytes)

    @property
    def pending_bytes(self) -> int:
        """Waiting for replay by this worker."""
        return sum(owner.pending_bytes for owner in self._owners())

    @property
    def is_full(self) -> bool:
        """Whether the last append found no room, not longer ago than a moment."""
        return time.monotonic() < self._full_until

    def _owners(self) -> Iterator[Owner]:
        yield from self._adopted
        if self._own is not None:
            yield self._own

    def append(self, record: bytes) -> None:
        """Put a record at the end. Raises SpoolFull, OSError."""
        own = self._mine()
        segment = own.segments[-1] if own.segments else None
        if segment is None or segment.end + _RECORD.size + len(record) > segment.size:
            segment = self._grow(own, len(record), at_front=False)
        self._write(segment, record)

    def put_back(self, records: Sequence[bytes]) -> None:
        """Put records in front of all that is there: a batch whose fate is unknown. Raises SpoolFull, OSError."""
        if not records:
            return
        room = sum(_RECORD.size + len(record) for record in records)
        segment = self._grow(self._mine(), room, at_front=True, is_exact=True)
        for record in records:
            self._write(segment, record)

    def _write(self, segment: _Segment, record: bytes) -> None:
        data = _RECORD.pack(len(record), zlib.crc32(record)) + record
        try:
            written = os.pwrite(segment.descriptor, data, segment.end)
        except OSError as exc:
            if exc.errno in (errno.ENOSPC, errno.EDQUOT):
                self._full_until = time.monotonic() + _FULL_AGAIN_S
                raise SpoolFull from exc
            raise
        if written < len(data):  # the disk is full: the record does not check, the next one overwrites it
            self._full_until = time.monotonic() + _FULL_AGAIN_S
            raise SpoolFull
        segment.end += len(data)

    def _grow(self, own: Owner, room: int, *, at_front: bool, is_exact: bool = False) -> _Segment:
        needed = _HEAD.size + _RECORD.size + room
        size = needed if is_exact else max(self._segment_bytes, needed)
        if self.is_full:
            raise SpoolFull
        with self._machine_lock():
            if own.segments and not at_front:
                self._seal(own.segments[-1])
            used = self._used_bytes()
            if used + size > self._max_bytes and used + needed <= self._max_bytes:
                size = self._max_bytes - used
            if used + size > self._max_bytes:
                self._full_until = time.monotonic() + _FULL_AGAIN_S
                raise SpoolFull
            numbers = [segment.number for segment in own.segments] or [_FIRST]
            segment = own.create(min(numbers) - 1 if at_front else max(numbers) + 1, size)
        if at_front:
            own.segments.appendleft(segment)
        else:
            own.segments.append(segment)
        return segment

    @staticmethod
    def _seal(segment: _Segment) -> None:
        """Give back the room that no record went into."""
        os.ftruncate(segment.descriptor, segment.end)
        segment.size = segment.end

    def _used_bytes(self) -> int:
        total = 0
        for entry in os.scandir(self._folder):
            if entry.name.endswith(".seg"):
                with contextlib.suppress(FileNotFoundError):  # replayed by another worker meanwhile
                    total += entry.stat().st_size
        return total

    @contextlib.contextmanager
    def _machine_lock(self) -> Iterator[None]:
        """Held for a listing of the folder: well under a millisecond."""
        descriptor = os.open(self._folder / "folder.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _mine(self) -> Owner:
        """Return this worker's place in the folder; made at the first event that needs it, so after any fork."""
        if self._own is None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            name = f"{os.getpid():x}-{time.time_ns():x}"
            with self._machine_lock():  # else another worker might take the new file for a dead one's
                lock = _locked(self._folder / f"{name}.lock")
            if lock is None:
                raise OSError(errno.EAGAIN, "the lock of a new name is taken")
            self._own = Owner(self._folder, name, lock)
        return self._own

    def peek(self, most: int, most_bytes: int) -> list[bytes]:
        """Return the next records to replay, oldest first: a dead worker's before this one's. Empty: there are none."""
        for owner in list(self._owners()):
            records, at = owner.peek(most, most_bytes)
            if records:
                self._peeked = (owner, at)
                return records
            if owner is not self._own:
                self._adopted.remove(owner)
                owner.release()
        return []

    def advance(self) -> None:
        """Drop what was peeked last, which has been delivered."""
        if self._peeked is not None:
            owner, at = self._peeked
            owner.advance(at)
            self._peeked, self._full_until = None, 0.0

    def adopt(self) -> int:
        """Take up the segments of workers that died; returns how many workers' were found."""
        if not self._folder.is_dir():
            return 0
        with self._machine_lock():
            return self._adopt({owner.name for owner in self._owners()})

    def _adopt(self, held: set[str]) -> int:
        found = 0
        for path in sorted(self._folder.glob("*.lock"), key=lambda path: path.stem.rpartition("-")[2]):
            if path.stem in held or path.name == "folder.lock":
                continue
            lock = _locked(path, is_new=False)
            if lock is None:
                continue
            owner = Owner(self._folder, path.stem, lock)
            owner.load()
            if owner.pending_bytes:
                self._adopted.append(owner)
                found += 1
            else:
                while owner.segments:
                    owner.drop_first()
                owner.release()
        return found

    def close(self) -> None:
        """Give up the locks; what is left is taken up by another worker, or at the next start."""
        for owner in list(self._owners()):
            if owner.segments:
                with contextlib.suppress(OSError):
                    self._seal(owner.segments[-1])
            owner.release()
        self._own, self._adopted = None, []


def _locked(path: Path, *, is_new: bool = True) -> int | None:
    """Return the descriptor of a lock file that is this process's now; None when a living one has it, or it is gone."""
    flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if is_new else 0)
    try:
        descriptor = os.open(path, flags, _MODE)
    except (FileNotFoundError, FileExistsError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_same = os.stat(path).st_ino == os.fstat(descriptor).st_ino
    except (BlockingIOError, FileNotFoundError):
        is_same = False
    if not is_same:
        os.close(descriptor)
        return None
    return descriptor


def spool_folder(settings: Settings) -> Path | None:
    """Where the spool is; None when EVENT_SPOOL_DIR is empty."""
    if settings.events.spool_dir == "":
        return None
    if settings.events.spool_dir is not None:
        return Path(settings.events.spool_dir)
    if settings.storage.driver == "sqlite" and settings.storage.path != ":memory:":
        return Path(settings.storage.path).parent / "spool"
    if settings.operation.audit_log_file:
        return Path(settings.operation.audit_log_file).parent / "spool"
    return Path("data") / "spool"
