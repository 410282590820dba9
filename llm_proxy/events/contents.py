"""What captured bytes say: content coding undone, kind found out, event streams merged (docs/events.md, "Bodies").

Nothing here raises, whatever the bytes are: captured bodies end anywhere, and producers are not all ours.
"""

import io
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import brotli
import orjson
import zstandard

from llm_proxy.events.event import TAIL_BYTES, Event
from llm_proxy.events.streams import Merged, is_event_stream, merge

MAX_EXPANDED_BYTES = 16 * 1024 * 1024
_JSON = re.compile(r"application/(?:[\w.+-]+\+)?json\s*(?:;|$)", re.IGNORECASE)
_TEXTUAL = re.compile(
    r"text/|application/(?:[\w.+-]+\+)?(?:json|x-ndjson|jsonl|xml|x-www-form-urlencoded)", re.IGNORECASE
)
_MULTIPART = re.compile(r"multipart/", re.IGNORECASE)
_BINARY = re.compile(r"(?:audio|image|video|font)/|application/(?:octet-stream|pdf|zip|gzip)", re.IGNORECASE)
_LOOKS_PLAIN = re.compile(rb"\s*(?:[\[{\"]|data:|event:)")
_PIECE_BYTES = 64 * 1024

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
    """The request's body."""
    return _content(
        event.request_body,
        event.request_content_type or "",
        event.request_content_encoding or "",
        event.request_truncated,
    )


def response_content(event: Event) -> Content:
    """The answer's body; an event stream as the one object that it stands for."""
    media_type, encoding = event.header("Content-Type"), event.header("Content-Encoding")
    body, tail = joined(event)
    is_cut = tail is not None
    content = _content(body, media_type, encoding, event.response_truncated)
    if content.kind not in (TEXT, STREAM, JSON) or not is_event_stream(media_type, content.raw):
        return content
    merged = merge(content.raw, tail if is_cut and not encoding else None)
    if merged is None:
        return content
    return Content(STREAM, content.raw, merged.answer, "", event.response_truncated, merged)


def joined(event: Event) -> tuple[bytes | None, bytes | None]:
    """The answer's body, and its tail where something is missing between the two.

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
    """The JSON value in a tuple, because it may be None itself; None when it is none, or none that we can write."""
    try:
        value = orjson.loads(raw)
        orjson.dumps(value)  # nesting that the parser takes and the writer does not
    except (ValueError, TypeError, RecursionError):
        return None
    return (value,)


def _text(raw: bytes, is_truncated: bool) -> str | None:
    """The text; of a body that was cut inside a character, without that one. None when it is no UTF-8."""
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


def decoded(body: bytes, encoding: str) -> bytes | None:
    """The body without its content codings (RFC 9110 §8.4), as far as it goes when it was cut; at most 16 MiB.

    None when it cannot be undone. Plain text that only claims a coding is taken as it is.
    """
    raw = body
    for name in reversed([item.strip().lower() for item in encoding.split(",")]):
        if name in ("", "identity"):
            continue
        undo = _CODINGS.get(name)
        found = _tried(undo, raw) if undo is not None else None
        if found is None:
            return body if _LOOKS_PLAIN.match(body) else None
        raw = found
    return raw


def _tried(undo: Callable[[bytes], bytes], body: bytes) -> bytes | None:
    """What could be undone; None when that is nothing."""
    try:
        return undo(body) or None
    except Exception:  # zlib, brotli and zstandard each have errors of their own
        return None


def _inflated(body: bytes, window_bits: int) -> bytes:
    """zlib and gzip, several members, as far as the data go."""
    found = bytearray()
    rest = body
    while rest and len(found) < MAX_EXPANDED_BYTES:
        inflater = zlib.decompressobj(window_bits)
        try:
            found += inflater.decompress(rest, MAX_EXPANDED_BYTES - len(found))
        except zlib.error:
            if not found:
                raise
            break
        rest = inflater.unused_data if inflater.eof else b""
    return bytes(found)


def _gunzip(body: bytes) -> bytes:
    return _inflated(body, 16 + zlib.MAX_WBITS)


def _deflate(body: bytes) -> bytes:
    """RFC 9110's `deflate` is zlib's format; some servers send it bare."""
    try:
        return _inflated(body, zlib.MAX_WBITS)
    except zlib.error:
        return _inflated(body, -zlib.MAX_WBITS)


def _unbrotli(body: bytes) -> bytes:
    undoer = brotli.Decompressor()
    found = bytearray()
    piece = body
    while len(found) < MAX_EXPANDED_BYTES:
        try:
            got = undoer.process(piece, output_buffer_limit=_PIECE_BYTES)
        except brotli.error:
            if not found:
                raise
            break
        found += got
        piece = b""
        if undoer.is_finished() or (not got and undoer.can_accept_more_data()):
            break
    return bytes(found[:MAX_EXPANDED_BYTES])


def _unzstd(body: bytes) -> bytes:
    undoer = zstandard.ZstdDecompressor(max_window_size=8 * 1024 * 1024)  # RFC 9659
    found = bytearray()
    with undoer.stream_reader(io.BytesIO(body), read_across_frames=True) as reader:
        while len(found) < MAX_EXPANDED_BYTES:
            try:
                piece = reader.read(_PIECE_BYTES)
            except zstandard.ZstdError:
                if not found:
                    raise
                break
            if not piece:
                break
            found += piece
    return bytes(found[:MAX_EXPANDED_BYTES])


_CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": _gunzip,
    "x-gzip": _gunzip,
    "deflate": _deflate,
    "br": _unbrotli,
    "zstd": _unzstd,
}
