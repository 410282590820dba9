"""How many WebSockets are open on this machine, in all and of each token: a table that all workers share.

A seat is a line with the worker's process and the token. What a worker that was killed has left is cleared by the next
that counts.
"""

import hashlib
import mmap
import os
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from llm_proxy.errors import Overloaded, ServiceUnavailable, TooManySockets
from llm_proxy.runtime.mapped_file import MappedFile
from llm_proxy.runtime.processes import is_running

FILE = "seats.1"  # the number is the layout's
_LINE = struct.Struct("<q16s")  # process, 0 where the line is free; token


class Seat:
    """One open WebSocket's line."""

    def __init__(self, release: Callable[[], None]) -> None:
        self._release: Callable[[], None] | None = release

    def release(self) -> None:
        """Free the line; repeats do nothing."""
        release, self._release = self._release, None
        if release is not None:
            release()


class Seats:
    """The open WebSockets of a machine.

    Args:
        folder: Local, writable, shared by all workers.
        most: WS_MAX_SOCKETS.
        most_per_token: WS_MAX_SOCKETS_PER_TOKEN.
    """

    def __init__(self, folder: Path, most: int, most_per_token: int) -> None:
        self._file = MappedFile(folder / FILE, _LINE.size * most)
        self._most, self._most_per_token = most, most_per_token

    def take(self, token_id: str) -> Seat:
        """Take a seat. Raises TooManySockets, Overloaded, ServiceUnavailable."""
        key = hashlib.blake2b(token_id.encode(), digest_size=16).digest()
        try:
            with self._file.locked() as table:
                place = self._free_place(table, key)
                _LINE.pack_into(table, place, os.getpid(), key)
        except OSError as exc:  # the folder's disk
            raise ServiceUnavailable from exc
        return Seat(lambda: self._free(place))

    def close(self) -> None:
        """Unmap; the file stays for the others."""
        self._file.close()

    def _free_place(self, table: mmap.mmap, key: bytes) -> int:
        lines = list(_LINE.iter_unpack(table[: self._most * _LINE.size]))
        counts = Counter(pid for pid, _ in lines if pid)
        dead = {pid for pid in counts if pid != os.getpid() and not is_running(pid)}
        if sum(1 for pid, known in lines if known == key and pid and pid not in dead) >= self._most_per_token:
            raise TooManySockets
        for number, (pid, _) in enumerate(lines):
            if not pid or pid in dead:
                return number * _LINE.size
        raise Overloaded

    def _free(self, place: int) -> None:
        try:
            with self._file.locked() as table:
                _LINE.pack_into(table, place, 0, b"")
        except (OSError, ValueError):  # unmapped: the process ends, and its lines with it
            return
