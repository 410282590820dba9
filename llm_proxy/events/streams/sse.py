"""Server-sent events, read as the standard says (WHATWG HTML §9.2.6), from bytes that may end anywhere."""

import re
from collections.abc import Iterator
from typing import Any

import orjson

_LINE_END = re.compile(rb"\r\n|\n|\r")
_FIRST_LINE = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:data|event|id|retry)?:")
_STREAM_TYPE = re.compile(r"\s*text/event-stream\b", re.IGNORECASE)


def is_event_stream(media_type: str, body: bytes) -> bool:
    """Whether a body is an event stream: by its type, else by how it begins."""
    return _STREAM_TYPE.match(media_type) is not None or (
        body[:3] != b"" and _FIRST_LINE.match(body[:64]) is not None and body[:64].lstrip()[:5] in (b"data:", b"event")
    )


def events(body: bytes) -> Iterator[tuple[str, bytes]]:
    """Event name (`""` where none is given) and data of each event, the last one too when nothing ends it."""
    name, data = "", list[bytes]()
    for line in _LINE_END.split(body.removeprefix(b"\xef\xbb\xbf")):
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


def chunks(body: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    """Events whose data is a JSON object; `[DONE]` and what does not parse are skipped."""
    for name, data in events(body):
        try:
            value = orjson.loads(data)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield name, value


def whole_events(tail: bytes) -> bytes:
    """The end of a stream from its first event boundary on: what stands before it began in what was left out."""
    found = re.search(rb"\r\n\r\n|\n\n|\r\r", tail)
    return tail[found.end() :] if found is not None else b""
