"""Attempts that failed, by client address: after so many within a minute, further ones wait.

The instants themselves are kept, not a count, so that the limit is exact at every moment; each list is as long as the
limit. They are shared by the workers of a machine, and by all replicas where limits are kept in Redis.
"""

import hashlib
import logging
import math
import mmap
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from llm_proxy.model.addresses import counted_as
from llm_proxy.redisclient import unreachable
from llm_proxy.runtime.mapped_file import MappedFile

LIMIT = 20
WINDOW_S = 60.0
FILE = "failures.1"  # the number is the layout's
_SLOT = struct.Struct(f"<16s{LIMIT}Q")  # address, then milliseconds, the oldest first; 0 = none
_WAYS, _GROUPS = 8, 512
_GROUP_BYTES = _SLOT.size * _WAYS
_WINDOW_MS = int(WINDOW_S * 1000)
_log = logging.getLogger(__name__)


class Shared(Protocol):
    """Failures of all replicas."""

    def fail(self, key: str, limit: int, window_s: int) -> float:
        """See `LoginThrottle.note`. Raises redisclient.unreachable()."""


class LoginThrottle:
    """Addresses that failed, and when.

    Args:
        folder: Local, writable, shared by all workers.
        shared: Counts of all replicas, if there are any.
        clock: Seconds that all processes of the machine agree on, and that never go back.
    """

    def __init__(
        self, folder: Path, shared: Shared | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._file = MappedFile(folder / FILE, _GROUP_BYTES * _GROUPS)
        self._shared, self._clock = shared, clock

    def note(self, address: str | None) -> int:
        """Write an attempt down, or, past the limit, leave it out: whole seconds until the next is free, else 0."""
        address = counted_as(address or "")
        wait_s = self._note_here(address)
        if not wait_s and self._shared is not None:
            try:
                wait_s = self._shared.fail(f"failures:{address}", LIMIT, int(WINDOW_S))
            except unreachable() as exc:
                _log.warning("failed attempts are counted on this machine alone: %s", type(exc).__name__)
        return math.ceil(wait_s)

    def close(self) -> None:
        """Unmap; the file stays for the others."""
        self._file.close()

    def _note_here(self, address: str) -> float:
        key = hashlib.blake2b(address.encode(), digest_size=16).digest()
        now = max(1, int(self._clock() * 1000))
        try:
            with self._file.locked() as table:
                place, instants = _find(table, key)
                oldest = instants[0]
                if oldest and now - oldest < _WINDOW_MS:
                    return (_WINDOW_MS - (now - oldest)) / 1000
                _SLOT.pack_into(table, place, key, *instants[1:], now)
        except OSError as exc:  # the folder's disk
            _log.error("failed attempts cannot be counted: %s", exc.strerror)
        return 0.0


def _find(table: mmap.mmap, key: bytes) -> tuple[int, Sequence[int]]:
    """Return the address's place and instants. In a full group, the one that has been quiet longest makes room."""
    first = int.from_bytes(key[:4], "little") % _GROUPS * _GROUP_BYTES
    slots = [(place, *_SLOT.unpack_from(table, place)) for place in range(first, first + _GROUP_BYTES, _SLOT.size)]
    for place, found, *instants in slots:
        if found == key:
            return place, instants
    return min(slots, key=lambda slot: int(slot[-1]))[0], [0] * LIMIT
