"""Server-sent events, read as the standard says (WHATWG HTML §9.2.6), from bytes that may end anywhere."""

import re
from collections.abc import Iterator
from typing import Any

import orjson

from llm_proxy.formats.lenient_json import loads_object
from llm_proxy.runtime.short_turns import breathe

LINE_END = re.compile(rb"\r\n|\n|\r")
_EVENT_END = re.compile(rb"(?:\r\n|\n|\r(?!\n)){2}")
_FIRST_LINE = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:data|event|id|retry)?:")
_STREAM_TYPE = re.compile(r"\s*text/event-stream\b", re.IGNORECASE)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_PARTS_AT_ONCE = 1000  # looked at without a pause
_EVENT_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n")


def is_event_stream(media_type: str, body: bytes) -> bool:
    """Return whether a body is an event stream: by its type, else by how it begins."""
    return _STREAM_TYPE.match(media_type) is not None or (
        _FIRST_LINE.match(body[:64]) is not None and body[:64].lstrip()[:5] in (b"data:", b"event")
    )


def events(body: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield name (`""` where none is given) and data of each event, the last one too when nothing ends it."""
    name, data = "", list[bytes]()
    for line in _lines(body.removeprefix(_BYTE_ORDER_MARK)):
        if not line:
            if data:
                yield name, b"\n".join(data)
            name, data = "", []
            continue
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value.decode("utf-8", "replace")
    if data:
        yield name, b"\n".join(data)


def _lines(body: bytes) -> Iterator[bytes]:
    start = 0
    for end in LINE_END.finditer(body):
        breathe()
        yield body[start : end.start()]
        start = end.end()
    yield body[start:]


def chunks(body: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the events whose data is a JSON object; `[DONE]` and what does not parse are skipped."""
    for name, data in events(body):
        if (value := loads_object(data)) is not None:
            yield name, value


def blocks(data: bytes, *, is_start: bool = True, is_end: bool = True) -> list[bytes]:
    """Return the raw lines of each event that has data: a fraction of the cost of `events`.

    Args:
        is_start: False where the data begin inside an event, which is left out.
        is_end: False where the data break off, so that the last event is left out.
    """
    parts = _EVENT_END.split(data) if b"\r" in data else data.split(b"\n\n")
    parts = parts[not is_start : len(parts) - (not is_end)]
    found: list[bytes] = []
    for start in range(0, len(parts), _PARTS_AT_ONCE):
        breathe()
        found += [part for part in parts[start : start + _PARTS_AT_ONCE] if b"data:" in part]
    return found


def object_of(block: bytes) -> dict[str, Any] | None:
    """Return the JSON object of one of the `blocks`; None where its data are none."""
    if block.startswith(b"data:"):  # nearly all of them are this one line
        try:
            value = orjson.loads(block[5:])
            return value if isinstance(value, dict) else None
        except orjson.JSONDecodeError:
            if b"[DONE]" in block[:16]:
                return None
    return loads_object(next((data for _, data in events(block)), b""))


def whole_events(tail: bytes) -> bytes:
    """Return the end of a stream from its first event boundary on: the part before it began in what was left out."""
    found = _EVENT_END.search(tail)
    return tail[found.end() :] if found is not None else b""


def ends_event(body: bytes) -> bool:
    """Return whether the last event of the body is a whole one."""
    return body.endswith(_EVENT_ENDS)
