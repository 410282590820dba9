"""events.contents and events.usage: what captured bytes say, in whatever coding and however cut."""

import gzip
import json
import zlib
from collections.abc import Callable

import brotli
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_proxy.events.bodies import joined, request_content, response_content
from llm_proxy.events.event import TAIL_BYTES, Event
from llm_proxy.events.usage import usage_in
from llm_proxy.formats.content_coding import MAX_EXPANDED_BYTES, decoded
from llm_proxy.formats.reading import read_value
from llm_proxy.formats.usage import Usage

TEXT = json.dumps({"choices": [{"text": "wörd " * 50}], "n": list(range(300))}).encode()
CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-GZIP": gzip.compress,
    "deflate": zlib.compress,
    "br": lambda body: brotli.compress(body, quality=5),  # of zeros no larger than at 11, in a twentieth of the time
    "zstd": lambda body: zstandard.ZstdCompressor().compress(body),
}


def event(body: bytes | None, media_type: str = "application/json", encoding: str = "", **more: object) -> Event:
    """An event with that response."""
    headers = {"content-TYPE": [media_type], "content-encoding": [encoding]}
    facts: dict[str, object] = {"request_id": "r", "method": "POST", "path": "/", "status": 200}
    return Event(**{**facts, "response_headers": headers, "response_body": body, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize("coding", CODINGS)
def test_each_coding_is_undone(coding: str) -> None:
    """gzip, deflate, br, zstd; names and field names in any case."""
    assert response_content(event(CODINGS[coding](TEXT), encoding=coding)).value == json.loads(TEXT)


@pytest.mark.parametrize("coding", CODINGS)
def test_a_cut_at_any_byte_gives_a_prefix(coding: str) -> None:
    """Never an exception; what comes out is how the body begins."""
    body = CODINGS[coding](TEXT)
    longest = 0
    for at in range(len(body)):
        found = decoded(body[:at], coding)
        if found:
            assert TEXT.startswith(found)
            longest = max(longest, len(found))
    assert longest > len(TEXT) // 2 or coding in ("br", "zstd")


def test_two_codings_and_a_bare_deflate() -> None:
    """Undone in reverse order; zlib's wrapper may be missing."""
    bare = zlib.compressobj(wbits=-15)
    assert decoded(bare.compress(TEXT) + bare.flush(), "deflate") == TEXT
    assert decoded(brotli.compress(gzip.compress(TEXT)), "gzip, br") == TEXT


def test_plain_json_that_claims_a_coding_is_taken() -> None:
    """A gzip field over plain JSON."""
    assert response_content(event(TEXT, encoding="gzip")).kind == "json"


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "compress"])
def test_what_cannot_be_undone_is_binary(coding: str) -> None:
    """A placeholder's case, never an exception."""
    assert response_content(event(b"\x00\x01\x02nonsense", encoding=coding)).kind == "binary"


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
def test_a_bomb_expands_to_the_bound_only(coding: str) -> None:
    """16 MiB and no more."""
    found = decoded(CODINGS[coding](b"\x00" * (64 * 1024 * 1024)), coding)
    assert found is not None
    assert len(found) <= MAX_EXPANDED_BYTES


@pytest.mark.parametrize(
    ("body", "media_type", "kind"),
    [
        (b'{"a":1}', "application/json; charset=utf-8", "json"),
        (b'{"a":1}', "", "json"),
        (b'{"a":', "application/json", "text"),
        (b"hello", "text/plain", "text"),
        (b"\xff\xfe\x00", "application/json", "binary"),
        (b"\x00\x01", "audio/mpeg", "binary"),
        (b"--x\r\n", "multipart/mixed", "multipart"),
        (b"", "application/json", "empty"),
        (b'data: {"choices":[]}\n\n', "text/event-stream", "stream"),
        (b'data: {"choices":[]}', "", "stream"),
        (b"data: hello\n\n", "text/event-stream", "text"),
    ],
)
def test_kinds(body: bytes, media_type: str, kind: str) -> None:
    """Each form of body is recognised, by type or by looking."""
    assert response_content(event(body, media_type)).kind == kind


def test_a_text_cut_inside_a_character_loses_that_one() -> None:
    """The cap may fall anywhere."""
    assert response_content(event("aé".encode()[:2], "text/plain", response_truncated=True)).text == "a"


def test_a_body_a_little_longer_than_the_cap_is_whole_again() -> None:
    """Head and tail overlap or touch: nothing is missing."""
    body = bytes(n % 250 for n in range(40_000))
    kept = event(body[:30_000], response_tail=body[-TAIL_BYTES:], response_bytes=len(body), response_truncated=True)
    assert joined(kept) == (body, None)


def test_a_request_is_read_the_same_way() -> None:
    """By its own type and coding."""
    found = request_content(
        Event(
            request_id="r",
            method="POST",
            path="/",
            status=200,
            request_body=gzip.compress(b"[1]"),
            request_content_encoding="GZip",
        )
    )
    assert (found.kind, found.value) == ("json", [1])


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.text(max_size=20), st.text(max_size=10), st.binary(max_size=50))
def test_anything_is_survived(body: bytes, media_type: str, encoding: str, tail: bytes) -> None:
    """Random bytes, types and codings."""
    response_content(event(body, media_type, encoding, response_tail=tail, response_bytes=len(body) + 10))


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ({"usage": {"prompt_tokens": 3, "completion_tokens": 4}}, Usage(3, 4)),
        ({"usage": {"input_tokens": 3, "output_tokens": 4, "cache_read_input_tokens": 2}}, Usage(5, 4, 2)),
        ({"usage": {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 1}}}, Usage(3, 0, 1)),
        ({"response": {"usage": {"input_tokens": 1, "output_tokens": 2}}}, Usage(1, 2)),
        ({"usage": {"prompt_tokens": "3", "completion_tokens": True}}, None),
        ({"usage": [1]}, None),
        ({}, None),
        (None, None),
    ],
)
def test_usage_in_its_spellings(response: object, expected: Usage | None) -> None:
    """Whatever is missing or odd counts as absent."""
    assert read_value(response).usage == expected


def tail_event(tail: bytes, media_type: str = "application/json", whole: int | None = None) -> Event:
    """An event without a body, whose response ended so."""
    return event(None, media_type, usage_source=tail, response_bytes=whole if whole is not None else len(tail))


def test_usage_from_the_end_of_a_response_that_is_not_kept() -> None:
    """Whole JSON, the end of a longer one, and a stream's last chunk."""
    usage = {"prompt_tokens": 3, "completion_tokens": 4}
    counted = Usage(3, 4)
    whole = json.dumps({"choices": [], "usage": usage}).encode()
    assert usage_in(tail_event(whole)) == counted
    assert usage_in(tail_event(b'xt"}],"usage": {"prompt_tokens":3,"completion_tokens":4}}', whole=9999)) == counted
    stream = b'"cut"}\n\ndata: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}\n\ndata: [DONE]\n\n'
    assert usage_in(tail_event(stream, "text/event-stream", whole=9999)) == counted
    assert usage_in(tail_event(b"nothing", whole=9999)) is None
