"""Memory-mapped files that the processes of one machine share.

A store into a hole of a sparse file kills the process with SIGBUS when the disk is full. So the room of each file is
taken with `posix_fallocate` before it is mapped; where the disk has none, opening fails with an OSError.
"""

import errno
import fcntl
import mmap
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Wait for a holder that waits for a processor: to go on without the lock loses a count, so a limit admits too many.
_LOCK_LIMIT_S = 0.5
_STUCK_LOCK_LIMIT_S = 0.02  # once a holder kept it that long, because it is stopped: the event loop must go on
_MODE = 0o600


def map_descriptor(descriptor: int, size: int) -> mmap.mmap:
    """Return a shared map of the file's first `size` bytes, all of which have room on the disk. Raises OSError."""
    take_room(descriptor, size)
    return mmap.mmap(descriptor, size)


def take_room(descriptor: int, size: int) -> None:
    """Allocate the file's first `size` bytes; what it holds stays.

    Raises:
        OSError: The disk, a quota or a limit of file sizes leaves no room.
    """
    os.posix_fallocate(descriptor, 0, size)


class MappedFile:
    """A file of fixed size, mapped when it is first used, and again after a fork. New files hold zeros.

    The kernel releases the lock when its holder dies, so a worker that is killed while it holds it stops no other.

    Args:
        path: On a local disk; its folder is made when it is missing.
        size: In bytes.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._path, self._size = path, size
        self._map: mmap.mmap | None = None
        self._descriptor = -1
        self._pid = 0
        self._is_closed = False
        self._lock_limit_s = _LOCK_LIMIT_S
        self._guard = threading.Lock()

    def close(self) -> None:
        """Unmap; the file stays for the others."""
        self._is_closed = True
        if self._map is not None:
            self._map.close()
            os.close(self._descriptor)
            self._map, self._descriptor = None, -1

    def content(self) -> mmap.mmap:
        """Return the map, opened if it is not open yet. Raises OSError; a later call tries again."""
        content = self._map
        return content if content is not None and self._pid == os.getpid() else self._open()

    def content_if_room(self) -> mmap.mmap | None:
        """Return the map, or None while the file cannot be opened."""
        if self._map is not None and self._pid == os.getpid():
            return self._map
        try:
            return self._open()
        except OSError:
            return None

    @contextmanager
    def locked(self) -> Iterator[mmap.mmap]:
        """Return its content, for this process alone while the block runs. Raises OSError.

        Where a stopped process holds the lock, the block runs without it: the first time after half a second, then
        after 20 ms each time until the lock is free again.
        """
        with self._guard:  # threads of one process share the file's lock
            content = self.content()
            is_locked = self._lock()
            try:
                yield content
            finally:
                if is_locked:
                    fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _lock(self) -> bool:
        deadline = 0.0
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._lock_limit_s = _LOCK_LIMIT_S
                return True
            except BlockingIOError:
                now = time.monotonic()
                deadline = deadline or now + self._lock_limit_s
                if now > deadline:
                    self._lock_limit_s = _STUCK_LOCK_LIMIT_S
                    return False
                os.sched_yield()

    def _open(self) -> mmap.mmap:
        """Open a descriptor of this process's own: an inherited one would share its parent's lock."""
        if self._is_closed:
            raise OSError(errno.EBADF, "the file is closed")
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
        try:
            content = map_descriptor(descriptor, self._size)
        except BaseException:
            os.close(descriptor)
            raise
        if self._descriptor >= 0 and self._pid != os.getpid():
            with suppress(OSError):  # the parent's, in this child
                os.close(self._descriptor)
        self._map, self._descriptor, self._pid = content, descriptor, os.getpid()
        return content
