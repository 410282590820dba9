"""A file that several processes append whole lines to, under a name that it follows, rotated by size."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from gevent import monkey

_LOCK_LIMIT_S = 5.0  # a stopped holder: lines are written without the lock then, because waiting would lose them
_PAUSE_S = 0.005
# Of the system's, not gevent's: lines are written in threads that have no loop.
_sleep = monkey.get_original("time", "sleep")
_new_lock = monkey.get_original("_thread", "allocate_lock")


class AppendFile:
    """A file that is opened by its name again whenever it was renamed, removed or rotated.

    Every append holds the file's lock. So a line that finds no room on the disk leaves nothing behind, and the process
    that finds the file full renames it while no other one writes.

    Args:
        path: Its folder is made when it is missing.
        mode: Of new files.
        max_bytes: The file is rotated before it grows beyond; 0 = never.
        backups: `name.1` (the newest) to `name.<backups>`; with 0 a full file is removed.
        is_read: Open it for reading, too. Lines that a crash cut off are ended then.
        is_durable: Force each append to the disk.
    """

    def __init__(
        self,
        path: Path,
        *,
        mode: int,
        max_bytes: int = 0,
        backups: int = 0,
        is_read: bool = False,
        is_durable: bool = False,
    ) -> None:
        self.path, self.max_bytes, self._mode, self._backups = path, max_bytes, mode, backups
        self._access = (os.O_RDWR if is_read else os.O_WRONLY) | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._is_read, self._is_durable = is_read, is_durable
        self._descriptor = -1
        self._is_cut = False  # the last append left a part of a line
        self._is_stale = False  # `reopen` was asked for while a line was written
        self._guard = _new_lock()  # between the threads of this process
        self.was_ended = False  # a line that was cut off has been ended since the file was opened

    # -- the whole way of lines ---------------------------------------------------------------------------------------

    def write(self, lines: bytes) -> None:
        """Append whole lines to the file that has the name now; a full file is rotated first. Raises OSError."""
        with self._guard:
            while not self._is_written(lines):
                pass

    def _is_written(self, lines: bytes) -> bool:
        self.follow()
        with self._alone() as is_alone:
            if is_alone and not self.is_current():  # another process has rotated it meanwhile
                return False
            size = os.fstat(self._descriptor).st_size
            if is_alone and self.max_bytes and size and size + len(lines) > self.max_bytes:
                self.rename()
                return False
            self.append(lines, size if is_alone else None)
            return True

    def reopen(self) -> None:
        """Open the file that has the name now; at the next append if a line is just being written. Raises OSError."""
        if not self._guard.acquire(False):
            self._is_stale = True
            return
        try:
            self.open()
        finally:
            self._guard.release()

    def close(self) -> None:
        """Close the file; the next append opens it again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    # -- its parts, for files with rules of their own -----------------------------------------------------------------

    @property
    def descriptor(self) -> int:
        """The open file. Raises OSError."""
        if self._descriptor < 0:
            self.open()
        return self._descriptor

    def open(self) -> None:
        """Open the file that has the name now, or a new one. Raises OSError; what was open before stays then."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        old, self._descriptor = self._descriptor, os.open(self.path, self._access, self._mode)
        self._is_stale = self._is_cut = False
        if old >= 0:
            os.close(old)

    def follow(self) -> None:
        """Open the file that has the name now, unless it is open already. Raises OSError."""
        if self._is_stale or self._descriptor < 0 or not self.is_current():
            self.open()

    def is_current(self) -> bool:
        """Return whether the open file has the name."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self.descriptor))
        except FileNotFoundError:
            return False

    def append(self, lines: bytes, size: int | None) -> None:
        """Write all of it. Raises OSError.

        Args:
            size: What the file holds; where writing fails it is cut back to that. None: others may write meanwhile, so
                a part of the lines may stay, which the next append ends.
        """
        try:
            view = memoryview(b"\n" + lines if self._is_cut or self._is_unended(size) else lines)
            while view:
                view = view[os.write(self._descriptor, view) :]
            if self._is_durable:
                os.fsync(self._descriptor)
        except OSError:
            self._undo(size)
            raise
        self._is_cut = False

    def rename(self) -> None:
        """Rotate: the file becomes `name.1`, that one `name.2` and so on; the next append opens a new one."""
        if self._backups == 0:
            self.path.unlink()
            return
        for number in range(self._backups - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):  # fewer backups so far
                os.replace(f"{self.path}.{number}", f"{self.path}.{number + 1}")
        os.replace(self.path, f"{self.path}.1")

    def _is_unended(self, size: int | None) -> bool:
        """Return whether the last line of the file was cut off by a crash."""
        if not self._is_read or not size or os.pread(self._descriptor, 1, size - 1) == b"\n":
            return False
        self.was_ended = True
        return True

    def _undo(self, size: int | None) -> None:
        try:
            if size is None:
                self._is_cut = True
            else:
                os.ftruncate(self._descriptor, size)
        except OSError:  # a pipe
            self._is_cut = True

    @contextlib.contextmanager
    def _alone(self) -> Iterator[bool]:
        """Hold the lock of the open file; False where its holder does not release it in time."""
        locked = self._descriptor
        until = time.monotonic() + _LOCK_LIMIT_S
        while not try_lock(locked):
            if time.monotonic() > until:
                yield False
                return
            _sleep(_PAUSE_S)
        try:
            yield True
        finally:
            fcntl.flock(locked, fcntl.LOCK_UN)


def try_lock(descriptor: int) -> bool:
    """Take the exclusive lock of a file; return False when another process has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
