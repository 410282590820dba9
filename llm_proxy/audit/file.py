"""The audit file: JSON lines that several workers append to, one chain for all of them.

A process that appends holds a lock, on a small file beside (`.<name>.chain`) that remembers where the chain is: which
worker wrote the last line is of no matter, and the chain goes on after a restart and in the next file, whichever
program rotated.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from llm_proxy.audit.chain import ANCHOR, START, Link, chained_line, entry_of_line, follow
from llm_proxy.audit.record import AuditEvent
from llm_proxy.runtime.append_file import AppendFile, try_lock
from llm_proxy.settings import OperationSettings

_LOG = logging.getLogger(__name__)

_MEMO_BYTES = 512  # one write, whatever is in it
_LOCK_LIMIT_S, _PAUSE_S = 5.0, 0.001


@dataclass(frozen=True, slots=True)
class Position:
    """Where the chain of a file is: its newest line, and the file (by inode) and size that it ends."""

    writer: str
    seq: int
    hash: str
    inode: int
    size: int

    @property
    def link(self) -> Link:
        """The newest line."""
        return Link(self.seq, self.hash)


class AuditFile:
    """Appends each record with one write; follows the name when the file was renamed, removed or rotated.

    The first line of a file that continues another one is an anchor. Where no file can be made beside it, the chain is
    this process's own and ends with it.

    Args:
        fsync: Force each record to the disk.
    """

    def __init__(self, path: Path, *, max_bytes: int = 0, backups: int = 0, fsync: bool = False) -> None:
        self._path, self._max_bytes, self._fsync = path, max_bytes, fsync
        self._file = AppendFile(path, mode=0o600, backups=backups, is_read=True)
        self._file.open()
        self._mutex = threading.Lock()
        self._memo = _open_memo(path)
        self.position: Position | None = None

    @classmethod
    def from_settings(cls, settings: OperationSettings) -> "AuditFile | None":
        """Return the file that the settings ask for; None for none. Raises OSError when it cannot be opened."""
        if not settings.audit_enabled or not settings.audit_log_file:
            return None
        path = Path(settings.audit_log_file)
        if settings.audit_create_dir:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        elif not path.parent.is_dir():
            raise FileNotFoundError(path.parent)
        return cls(
            path,
            max_bytes=settings.audit_log_max_size_mb * 1024 * 1024,
            backups=settings.audit_log_max_backups,
            fsync=settings.audit_fsync,
        )

    @property
    def place(self) -> str | None:
        """The file's path when its chain outlives this process; None when it cannot continue."""
        return None if self._memo is None else str(self._path.absolute())

    def append(self, events: Sequence[AuditEvent]) -> None:
        """Write the records as the next lines of the chain, behind an anchor when the file is a new one.

        Raises OSError; what was written until then stays.
        """
        with self._alone():
            position = self._settled()
            try:
                for event in events:
                    position = self._appended(position, event)
            finally:
                self._remember(position)
            self._force()

    def reopen(self) -> None:
        """Release a file that was renamed (SIGUSR1); at the next record if one is just being written."""
        if self._mutex.acquire(blocking=False):
            try:
                self._file.open()
            finally:
                self._mutex.release()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """No other greenlet, thread or process appends meanwhile. Raises OSError when that takes too long."""
        with self._mutex:
            if self._memo is None:
                yield
                return
            until = time.monotonic() + _LOCK_LIMIT_S
            while not try_lock(self._memo):
                if time.monotonic() > until:
                    raise OSError(errno.ETIMEDOUT, "another process holds the audit file's lock")
                time.sleep(_PAUSE_S)  # gevent's in a worker: others go on
            try:
                yield
            finally:
                fcntl.flock(self._memo, fcntl.LOCK_UN)

    def _settled(self) -> Position:
        """Where the chain is now, in the file that has the name now; ready for the next line."""
        position = _recall(self._memo) or self.position
        if not self._file.is_current():
            position = None if position is None else _caught_up(position, self._file.descriptor)
            self._file.open()
        if position is None:
            return self._at_end(Position(str(uuid.uuid4()), *_START, 0, 0))
        found = os.fstat(self._file.descriptor)
        if found.st_ino == position.inode and found.st_size >= position.size:
            return self._at_end(_caught_up(position, self._file.descriptor))
        return self._continued(position)

    def _at_end(self, position: Position) -> Position:
        """Return the position at the end of the open file, a line that was cut off ended."""
        found = os.fstat(self._file.descriptor)
        size = found.st_size
        if size and os.pread(self._file.descriptor, 1, size - 1) != b"\n":
            size += os.write(self._file.descriptor, b"\n")
        return replace(position, inode=found.st_ino, size=size)

    def _continued(self, position: Position) -> Position:
        """Return the position after the anchor that begins this file; it needs none when nothing was written before."""
        position = self._at_end(position)
        if position.seq == 0:
            return position
        details = position.link.details(position.writer) | {"cause": "rotation"}
        anchor = AuditEvent(ANCHOR, "system", "success", correlation_id=position.writer, details=details)
        return self._written(position, anchor)

    def _appended(self, position: Position, event: AuditEvent) -> Position:
        if self._max_bytes and position.size:
            coming = len(chained_line(event.line(), position.writer, position.link)[0])
            if position.size + coming > self._max_bytes:
                self._force()
                self._file.rename()
                self._file.open()
                position = self._continued(position)
        return self._written(position, event)

    def _written(self, position: Position, event: AuditEvent) -> Position:
        line, link = chained_line(event.line(), position.writer, position.link)
        self._file.append(line, None if self._memo is None else position.size)
        return replace(position, seq=link.seq, hash=link.hash, size=position.size + len(line))

    def _force(self) -> None:
        if self._fsync:
            os.fsync(self._file.descriptor)

    def _remember(self, position: Position) -> None:
        self.position = position
        if self._memo is not None:
            text = json.dumps(asdict(position), separators=(",", ":"))
            os.pwrite(self._memo, text.encode("ascii").ljust(_MEMO_BYTES - 1) + b"\n", 0)


_START = (START.seq, START.hash)


def remembered(path: Path) -> Position | None:
    """Where the chain of the file of this name is, by the memory beside it; None when there is none to be read."""
    try:
        memo = os.open(memo_of(path), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _recall(memo)
    finally:
        os.close(memo)


def memo_of(path: Path) -> Path:
    """Return the file that remembers; hidden, so that rotation or removal of `audit.log*` leaves it alone."""
    return path.with_name(f".{path.name}.chain")


def _open_memo(path: Path) -> int | None:
    try:
        memo = os.open(memo_of(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:  # a folder without the right to write; `fault` let that pass
        _LOG.warning(
            "%s cannot be opened (%s): a missing end of the audit file is not seen", memo_of(path), error.strerror
        )
        return None
    if os.geteuid() == 0:  # root's command must not lock the server out
        owner = os.stat(path)
        os.fchown(memo, owner.st_uid, owner.st_gid)
    return memo


def _recall(memo: int | None) -> Position | None:
    """Return what is remembered of the chain; None when nothing is, or when it can't be read."""
    if memo is None:
        return None
    try:
        found = Position(**json.loads(os.pread(memo, _MEMO_BYTES, 0)))
        uuid.UUID(found.writer)
        bytes.fromhex(found.hash)
        return replace(found, seq=int(found.seq), inode=int(found.inode), size=int(found.size))
    except (ValueError, TypeError, AttributeError):
        return None


def _caught_up(position: Position, descriptor: int) -> Position:
    """Return the position after lines that were appended without being remembered, by a process that was killed."""
    found = os.fstat(descriptor)
    if found.st_ino != position.inode or found.st_size <= position.size:
        return position
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(position.size)
        for line in file:
            with contextlib.suppress(ValueError):  # cut off
                entry, _ = entry_of_line(line.rstrip(b"\n"))
                if entry is not None and entry.writer == position.writer and follow(entry, position.link) is None:
                    position = replace(position, seq=entry.seq, hash=entry.hash)
    return replace(position, size=found.st_size)


def fault(settings: OperationSettings) -> str | None:
    """One line when records could not be written to the audit file; the start then stops. Makes nothing."""
    if not settings.audit_enabled or not settings.audit_log_file:
        return None
    path = Path(settings.audit_log_file)
    shown = f"AUDIT_LOG_FILE={path}: expected"
    if path.exists():
        is_usable = path.is_file() and os.access(path, os.R_OK | os.W_OK)
        return None if is_usable else f"{shown} a file that can be read and written"
    folder = path.parent
    if not folder.exists() and not settings.audit_create_dir:
        return f"{shown} its folder to exist, because AUDIT_CREATE_DIR is false"
    while not folder.exists():
        folder = folder.parent
    return None if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK) else f"{shown} a folder that can be written"
