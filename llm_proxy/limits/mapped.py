"""A memory-mapped file that the workers of one machine change under a file lock.

The kernel gives the lock back when its holder dies, so a worker that is killed while it holds it stops nobody.
"""

import fcntl
import mmap
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_LOCK_LIMIT_S = 0.02  # a holder that was stopped in the few microseconds inside: going on is better than standing still


class MappedFile:
    """Zeros at first; opened when it is first used, and anew after a fork.

    Args:
        path: On a local disk; its folder is made when it is missing.
        size: In bytes.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._path, self._size = path, size
        self._map: mmap.mmap | None = None
        self._descriptor = -1
        self._pid = 0
        self._guard = threading.Lock()

    def close(self) -> None:
        """Unmap; the file stays for the others."""
        if self._map is not None:
            self._map.close()
            os.close(self._descriptor)
            self._map = None

    @contextmanager
    def locked(self) -> Iterator[mmap.mmap]:
        """Its content, for this process alone while the block runs. Raises OSError."""
        with self._guard:  # threads of one process share the file's lock
            content = self._map
            if content is None or self._pid != os.getpid():
                content = self._open()
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
                return True
            except BlockingIOError:
                now = time.monotonic()
                deadline = deadline or now + _LOCK_LIMIT_S
                if now > deadline:
                    return False
                os.sched_yield()

    def _open(self) -> mmap.mmap:
        """Open a descriptor of this process's own: one that was inherited would share its parent's lock."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, self._size)  # a store into a hole of a full disk would kill the process
            content = mmap.mmap(descriptor, self._size)
        except BaseException:
            os.close(descriptor)
            raise
        if self._descriptor >= 0 and self._pid != os.getpid():
            with suppress(OSError):  # the parent's, in this child
                os.close(self._descriptor)
        self._map, self._descriptor, self._pid = content, descriptor, os.getpid()
        return content
