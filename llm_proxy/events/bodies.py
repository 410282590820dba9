"""What captured bytes say: content coding undone, kind found out, event streams merged (docs/events.md, "Bodies").

Nothing here raises, whatever the bytes are: captured bodies end anywhere, and other programs produce events, too.
"""

import re
from dataclasses import dataclass
from typing import Any

import orjson

from llm_proxy.events.event import TAIL_BYTES, Event
from llm_proxy.formats.content_coding import decoded
from llm_proxy.formats.lenient_json import loads
from llm_proxy.formats.sse import is_event_stream
from llm_proxy.formats.streams import Merged, merge
from llm_proxy.runtime.short_turns import breathe

_JSON = re.compile(r"application/(?:[\w.+-]+\+)?json\s*(?:;|$)", re.IGNORECASE)
_TEXTUAL = re.compile(
    r"text/|application/(?:[\w.+-]+\+)?(?:json|x-ndjson|jsonl|xml|x-www-form-urlencoded)", re.IGNORECASE
)
_MULTIPART = re.compile(r"multipart/", re.IGNORECASE)
_BINARY = re.compile(r"(?:audio|image|video|font)/|application/(?:octet-stream|pdf|zip|gzip)", re.IGNORECASE)

JSON, TEXT, STREAM, BINARY, MULTIPART, EMPTY = "json", "text", "stream", "binary", "multipart", "empty"


@dataclass(slots=True)
class Content:
    """One body, understood as far as it can be.

    `kind` says which of the others is set: `value` for json (any JSON value) and stream (the merged object), `text` for
    text, `raw` always: the bytes with their coding undone, or as captured where that failed.
    """

    kind: str
    raw: bytes = b""
    value: Any = None
    text: str = ""
    is_truncated: bool = False
    merged: Merged | None = None


def request_content(event: Event) -> Content:
    """Return the request's body."""
    return _content(
        event.request_body,
        event.request_content_type or "",
        event.request_content_encoding or "",
        event.request_truncated,
    )


def response_content(event: Event) -> Content:
    """Return the response's body; an event stream as the one object that it stands for."""
    media_type, encoding = event.header("Content-Type"), event.header("Content-Encoding")
    body, tail = joined(event)
    is_cut = tail is not None
    content = _content(body, media_type, encoding, event.response_truncated)
    if content.kind not in (TEXT, STREAM, JSON) or not is_event_stream(media_type, content.raw):
        return content
    merged = merge(content.raw, tail if is_cut and not encoding else None)
    if merged is None:
        return content
    return Content(STREAM, content.raw, merged.response, "", event.response_truncated, merged)


def joined(event: Event) -> tuple[bytes | None, bytes | None]:
    """Return the response's body, and its tail where something is missing between the two.

    The tail is the last 16 KiB of the whole: with the whole's length known, a body that is longer than the cap by less
    than that is put together again.
    """
    body, tail = event.response_body, event.response_tail
    if body is None or not tail:
        return body, None
    if event.response_bytes is None or len(tail) > TAIL_BYTES:
        return body, tail
    missing = event.response_bytes - len(body)
    if 0 <= missing <= len(tail):
        return body + tail[len(tail) - missing :], None
    return body, tail


def _content(body: bytes | None, media_type: str, encoding: str, is_truncated: bool) -> Content:
    if body is None or not body:
        return Content(EMPTY)
    if _MULTIPART.match(media_type.strip()):
        return Content(MULTIPART, body, is_truncated=is_truncated)
    raw = decoded(body, encoding)
    if raw is None or _BINARY.match(media_type.strip()):
        return Content(BINARY, body, is_truncated=is_truncated)
    value = parse_json(raw)
    if value is not None and not (media_type and media_type.strip().lower().startswith("text/plain")):
        return Content(JSON, raw, value[0], is_truncated=is_truncated)
    text = _text(raw, is_truncated)
    if text is None:
        return Content(BINARY, raw, is_truncated=is_truncated)
    if media_type and not _TEXTUAL.match(media_type.strip()) and "\x00" in text:
        return Content(BINARY, raw, is_truncated=is_truncated)
    return Content(TEXT, raw, text=text, is_truncated=is_truncated)


def parse_json(raw: bytes) -> tuple[Any] | None:
    """Return the JSON value in a tuple, because it may be None itself; None when it is none that can be written."""
    try:
        value = loads(raw)
        breathe()
        orjson.dumps(value)  # nesting that the parser takes and the writer does not
    except (ValueError, TypeError, RecursionError):
        return None
    return (value,)


def _text(raw: bytes, is_truncated: bool) -> str | None:
    """Return the text, without a character that was cut at its end. None when it is no UTF-8."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as exc:
        if (
            exc.end < len(raw)
            or len(raw) - exc.start > 3
            or not (is_truncated or exc.reason == "unexpected end of data")
        ):
            return None
        return raw[: exc.start].decode("utf-8")
