"""Back end `file`: a line of JSON an exchange, on the disk before it is acknowledged (docs/events.md, "File")."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from llm_proxy.dispatcher.backends.base import DELIVERED, BackendConfig, BackendError, Result, Verdict
from llm_proxy.dispatcher.payload import Payload, to_json
from llm_proxy.runtime.append_file import AppendFile, try_lock
from llm_proxy.runtime.clock import rfc3339

log = logging.getLogger(__name__)

BACKUPS = 5
_MODE = 0o600


class FileBackend:
    """Appends to a file that this dispatcher alone writes."""

    default_endpoint: ClassVar[str] = "./data/events.jsonl"
    needs_key: ClassVar[bool] = False
    is_http: ClassVar[bool] = False

    def __init__(self, config: BackendConfig) -> None:
        path = Path(config.endpoint)
        self._file = AppendFile(
            path, mode=_MODE, max_bytes=config.file_max_bytes, backups=BACKUPS, is_read=True, is_durable=True
        )
        try:
            self._file.open()
            self._lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
        except OSError as exc:
            raise BackendError(f"DISPATCHER_ENDPOINT={path}: {exc.strerror}") from exc
        if not try_lock(self._lock):
            raise BackendError(f"DISPATCHER_ENDPOINT={path}: another dispatcher writes this file")

    def send(self, payloads: Sequence[Payload]) -> list[Result]:
        """One write, then fsync. A batch is in the file whole or not at all."""
        if not payloads:
            return []
        try:
            self._file.write(b"".join(to_line(payload) for payload in payloads))
        except OSError as exc:
            return [Result(Verdict.TRANSIENT, exc.strerror or "write failed", is_whole=True)] * len(payloads)
        if self._file.was_ended:
            self._file.was_ended = False
            log.warning("the file's last line was incomplete; it has been ended")
        return [DELIVERED] * len(payloads)

    def reopen(self) -> None:
        """Open the file that has the name now. Raises OSError."""
        self._file.reopen()

    def close(self) -> None:
        """Close the file and release its lock."""
        self._file.close()
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1


def to_line(payload: Payload) -> bytes:
    """Return the payload's documented keys in one line, and when the exchange ended."""
    found = payload.to_dict()
    found["endTimestamp"] = rfc3339(payload.ended_at)
    if payload.is_error:
        found["metadata"] = {**payload.metadata, "error": payload.error}
    return to_json(found) + b"\n"
