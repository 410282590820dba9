"""Responses in the forms in which providers send them: tests/cases/usage, a body and what it says."""

import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import brotli
import pytest
import zstandard

from llm_proxy.dispatcher.transform import Transformer
from llm_proxy.events.bus import Entry
from llm_proxy.events.event import Event
from llm_proxy.events.usage import usage_in
from llm_proxy.formats.body import Body
from llm_proxy.formats.reading import Reading, read
from llm_proxy.formats.usage import Usage
from llm_proxy.usage.tap import Tap

CASES = sorted((Path(__file__).parents[2] / "cases" / "usage").glob("*.expected"))
CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


def reading(path: Path, encoding: str, piece_bytes: int = 50) -> Reading:
    """The case's response, which came in pieces."""
    body = CODINGS[encoding](path.with_suffix("").read_bytes())
    tap = Tap(encoding)
    for start in range(0, len(body), piece_bytes):
        tap(body[start : start + piece_bytes])
    is_stream = path.name.endswith(".sse.expected")
    return read(tap.finish(), "text/event-stream" if is_stream else "application/json")


@pytest.mark.parametrize("encoding", CODINGS)
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_response_says_what_it_used(path: Path, encoding: str) -> None:
    """Prompt, completion, cached and reasoning tokens; the model; the id where several responses show one usage."""
    expected: dict[str, Any] = json.loads(path.read_text())
    found = reading(path, encoding)
    usage = found.usage
    counts = usage and [usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.reasoning_tokens]
    assert counts == expected["usage"]
    assert found.model == expected["model"]
    assert (found.once, found.is_final) == (expected.get("once"), expected.get("is_final", True))
    if "text" in expected:
        assert "".join(found.texts) == expected["text"]


TYPES = ("", "text/plain", "application/octet-stream")


@pytest.mark.parametrize("media_type", TYPES, ids=("none", "text", "binary"))
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_the_claimed_type_changes_nothing(path: Path, media_type: str) -> None:
    """The content decides: providers send none, or another."""
    expected: dict[str, Any] = json.loads(path.read_text())
    found = read(Body(path.with_suffix("").read_bytes()), media_type)
    assert (counts_of(found.usage), found.model) == (expected["usage"], expected["model"])


@pytest.mark.parametrize("encoding", ["", "gzip"])
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_events_and_payloads_show_the_same(path: Path, encoding: str) -> None:
    """One reader: the counts of an event and of what the dispatcher delivers are those of the sums."""
    expected: dict[str, Any] = json.loads(path.read_text())
    media_type = "text/event-stream" if path.name.endswith(".sse.expected") else "application/json"
    event = Event(
        request_id="r",
        method="POST",
        path="/v1/chat/completions",
        status=200,
        response_headers={"Content-Type": [media_type], "Content-Encoding": [encoding]},
        response_body=CODINGS[encoding](path.with_suffix("").read_bytes()),
    )
    assert counts_of(usage_in(event)) == expected["usage"]
    assert counts_of(Transformer("key").payload(event, Entry("1-0", b"{}")).usage) == expected["usage"]


def counts_of(usage: Usage | None) -> list[int] | None:
    """The four counts."""
    if usage is None:
        return None
    return [usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.reasoning_tokens]


@pytest.mark.parametrize("path", [path for path in CASES if "silent" not in path.stem], ids=lambda path: path.stem)
def test_a_long_response_says_the_same(path: Path) -> None:
    """With half a megabyte in its middle, of which nothing is kept."""
    expected: dict[str, Any] = json.loads(path.read_text())
    if expected["usage"] is None:
        return
    body = path.with_suffix("").read_bytes()
    filler = b"x" * 500_000
    if path.name.endswith(".sse.expected"):
        filler = b'data: {"choices":[{"delta":{"content":"' + b"x" * 1000 + b'"}}]}\n\n'
        end = next(end for end in (b"\r\n\r\n", b"\n\n", b"\r\r") if end in body)
        first = body.index(end) + len(end)
        body = body[:first] + filler * 500 + body[first:]
    else:
        place = next(body.index(mark) + len(mark) for mark in (b'"choices": [', b'"data": [', b'"output": [',
                     b'"content": [', b'"text": "', b'"thread_id": "') if mark in body)  # fmt: skip
        body = body[:place] + (filler if body[place - 1 : place] == b'"' else b'"' + filler + b'", ') + body[place:]
    tap = Tap()
    for start in range(0, len(body), 8192):
        tap(body[start : start + 8192])
    kept = tap.finish()
    assert len(kept.head) + len(kept.tail) < 150_000 < len(body)
    found = read(kept, "text/event-stream" if ".sse." in path.name else "application/json")
    assert found.usage is not None
    assert [found.usage.prompt_tokens, found.usage.completion_tokens] == expected["usage"][:2]
    assert found.model == expected["model"]
    assert found.once == expected.get("once")
