"""Back end `file`: a line of JSON an exchange, on the disk before it is acknowledged (docs/events.md, "File")."""

import contextlib
import fcntl
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from llm_proxy.dispatcher.backends.base import DELIVERED, BackendConfig, BackendError, Result, Verdict
from llm_proxy.dispatcher.payload import Payload, to_json
from llm_proxy.runtime.clock import rfc3339

log = logging.getLogger(__name__)

BACKUPS = 5  # EV-133
_MODE = 0o600


class FileBackend:
    """Appends to a file that this dispatcher alone writes."""

    default_endpoint: ClassVar[str] = "./data/events.jsonl"
    needs_key: ClassVar[bool] = False
    is_http: ClassVar[bool] = False

    def __init__(self, config: BackendConfig) -> None:
        self._path, self._max_bytes = Path(config.endpoint), config.file_max_bytes
        self._descriptor = -1
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._open()
        except BlockingIOError:
            raise BackendError(f"DISPATCHER_ENDPOINT={self._path}: another dispatcher writes this file") from None
        except OSError as exc:
            raise BackendError(f"DISPATCHER_ENDPOINT={self._path}: {exc.strerror}") from exc

    def _open(self) -> None:
        """Open, and end a line that a crash left without its end."""
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE)
        size = os.fstat(self._descriptor).st_size
        if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
            log.warning("the file's last line was incomplete; it has been ended")
            os.write(self._descriptor, b"\n")

    def send(self, payloads: Sequence[Payload]) -> list[Result]:
        """One write, then fsync. A batch is in the file whole or not at all."""
        if not payloads:
            return []
        lines = b"".join(to_line(payload) for payload in payloads)
        try:
            self._follow()
            self._rotate_before(len(lines))
            self._append(lines)
        except OSError as exc:
            return [Result(Verdict.TRANSIENT, exc.strerror or "write failed", is_whole=True)] * len(payloads)
        return [DELIVERED] * len(payloads)

    def _append(self, lines: bytes) -> None:
        before = os.fstat(self._descriptor).st_size
        try:
            view = memoryview(lines)
            while view:
                view = view[os.write(self._descriptor, view) :]
            os.fsync(self._descriptor)
        except OSError:
            with contextlib.suppress(OSError):  # no half batch stays: it is tried again as a whole
                os.ftruncate(self._descriptor, before)
            raise

    def _follow(self) -> None:
        """Write to the file that has the name now (logrotate, or somebody's mv)."""
        try:
            named, held = os.stat(self._path), os.fstat(self._descriptor)
            if (named.st_ino, named.st_dev) == (held.st_ino, held.st_dev):
                return
        except OSError:  # no file has the name, or ours could not be opened before
            pass
        self.reopen()

    def _rotate_before(self, coming_bytes: int) -> None:
        """name → name.1 → … → name.5, before the file grows beyond the bound."""
        size = os.fstat(self._descriptor).st_size
        if not self._max_bytes or not size or size + coming_bytes <= self._max_bytes:
            return
        for number in range(BACKUPS - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"{self._path}.{number}", f"{self._path}.{number + 1}")
        os.replace(self._path, f"{self._path}.1")
        self.reopen()

    def reopen(self) -> None:
        """Close and open by name."""
        old, self._descriptor = self._descriptor, -1
        if old >= 0:
            os.close(old)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._open()

    def close(self) -> None:
        """Let go of file and lock."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        if self._lock >= 0:
            os.close(self._lock)
        self._descriptor = self._lock = -1


def to_line(payload: Payload) -> bytes:
    """The payload's documented keys in one line, and when the exchange ended."""
    found = payload.to_dict()
    found["endTimestamp"] = rfc3339(payload.ended_at)
    if payload.is_error:
        found["metadata"] = {**payload.metadata, "error": payload.error}
    return to_json(found) + b"\n"
