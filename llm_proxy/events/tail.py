"""Events read without consuming them: from the file sink or a bus, past ones and those that come."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from llm_proxy.events.bus import FIELD
from llm_proxy.events.event import Event
from llm_proxy.events.file_sink import from_line
from llm_proxy.redisclient import command, text

if TYPE_CHECKING:
    from redis.client import Redis

_POLL_S = 0.2
_PAGE = 100


def parse(line: bytes) -> Event | None:
    """Return an event in its wire form, or a line of the file sink; None when it is neither."""
    try:
        found = orjson.loads(line)
        if isinstance(found, dict):
            return Event.from_wire(line) if "RequestID" in found else from_line(line)
    except ValueError:
        pass  # a line of another writer, or half of one
    return None


# -- files -----------------------------------------------------------------------------------------------------------


def past_of_file(path: Path) -> Iterator[Event]:
    """All events of a file. Raises OSError."""
    with path.open("rb") as file:
        for line in file:
            if (event := parse(line)) is not None:
                yield event


def follow_file(path: Path, last: int, *, is_following: bool = True) -> Iterator[Event]:
    """Yield the last events of a file, then appended ones, also after it was rotated. Raises OSError."""
    file: BinaryIO = path.open("rb")
    yield from _parsed(deque(file, maxlen=last) if last else _skip(file))
    while is_following:
        line = file.readline()
        if line.endswith(b"\n"):
            yield from _parsed([line])
            continue
        if line:
            file.seek(-len(line), os.SEEK_CUR)  # half a line: its end is on its way
        elif (newer := _newer(path, file)) is not None:
            file.close()
            file = newer
            continue
        time.sleep(_POLL_S)
    file.close()


def _skip(file: BinaryIO) -> list[bytes]:
    file.seek(0, os.SEEK_END)
    return []


def _newer(path: Path, file: BinaryIO) -> BinaryIO | None:
    """Return the file that has the name now, if it is another one or was emptied."""
    try:
        named, held = os.stat(path), os.fstat(file.fileno())
    except FileNotFoundError:
        return None
    if (named.st_ino, named.st_dev) != (held.st_ino, held.st_dev) or named.st_size < file.tell():
        return path.open("rb")
    return None


def _parsed(lines: Any) -> Iterator[Event]:
    for line in lines:
        if (event := parse(line)) is not None:
            yield event


# -- streams ---------------------------------------------------------------------------------------------------------


def past_of_stream(client: Redis, key: str) -> Iterator[Event]:
    """All entries that are still there. Raises what redis-py raises."""
    start = "-"
    while True:
        page: Any = client.xrange(key, min=start, count=_PAGE)
        yield from _parsed(fields.get(FIELD, b"") for _, fields in page)
        if len(page) < _PAGE:
            return
        start = f"({text(page[-1][0])}"


def follow_stream(client: Redis, key: str, last: int, *, is_following: bool = True) -> Iterator[Event]:
    """Yield the last entries, then new ones; belongs to no consumer group. Raises what redis-py raises."""
    newest: Any = client.xrevrange(key, count=max(1, last))
    after = text(newest[0][0]) if newest else "0-0"
    yield from _parsed(fields.get(FIELD, b"") for _, fields in reversed(newest[:last]))
    while is_following:
        response: Any = client.xread({key: after}, count=_PAGE, block=1000)
        for _, page in response or []:
            yield from _parsed(fields.get(FIELD, b"") for _, fields in page)
            after = text(page[-1][0])


# -- lists -----------------------------------------------------------------------------------------------------------


def past_of_list(client: Redis, key: str) -> Iterator[Event]:
    """Yield what waits in the list, the oldest first. Raises what redis-py raises."""
    yield from _parsed(reversed(command(client, "LRANGE", key, 0, -1)))


def follow_list(client: Redis, key: str, last: int, *, is_following: bool = True) -> Iterator[Event]:
    """Yield the newest that wait, then new ones; one that is consumed between two looks is not seen."""
    seen: deque[bytes] = deque(maxlen=10 * _PAGE)
    newest = command(client, "LRANGE", key, 0, _PAGE - 1)
    seen.extend(reversed(newest))
    yield from _parsed(reversed(newest[:last]))
    while is_following:
        time.sleep(_POLL_S / 4)
        known = set(seen)
        fresh = [element for element in command(client, "LRANGE", key, 0, _PAGE - 1) if element not in known]
        seen.extend(reversed(fresh))
        yield from _parsed(reversed(fresh))
