"""What responses say of their usage."""

import gzip
import json
from typing import Any

import pytest

from llm_proxy.formats.body import Body
from llm_proxy.formats.reading import Reading, read
from llm_proxy.formats.usage import Usage
from llm_proxy.usage.tap import Tap

CHAT = {"object": "chat.completion", "model": "gpt-4o", "choices": [{"message": {"content": "hi"}}]}
COUNTS = {
    "prompt_tokens": 9,
    "completion_tokens": 4,
    "prompt_tokens_details": {"cached_tokens": 3},
    "completion_tokens_details": {"reasoning_tokens": 2},
}


def reading(body: bytes, media_type: str = "application/json", encoding: str = "", piece_bytes: int = 7) -> Reading:
    """A response that came in pieces."""
    tap = Tap(encoding)
    for start in range(0, len(body), piece_bytes):
        tap(body[start : start + piece_bytes])
    return read(tap.finish(), media_type)


def stream(*events: Any) -> bytes:
    """Server-sent events, with OpenAI's end."""
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("response", "usage"),
    [
        ({**CHAT, "usage": COUNTS}, Usage(9, 4, 3, 2)),
        (
            {
                "object": "list",
                "model": "m",
                "data": [{"object": "embedding"}],
                "usage": {"prompt_tokens": 5, "total_tokens": 5},
            },
            Usage(5),
        ),
        (
            {
                "object": "response",
                "id": "resp_1",
                "status": "completed",
                "model": "m",
                "usage": {
                    "input_tokens": 7,
                    "output_tokens": 8,
                    "input_tokens_details": {"cached_tokens": 1},
                    "output_tokens_details": {"reasoning_tokens": 5},
                },
            },
            Usage(7, 8, 1, 5),
        ),
        ({"type": "message", "model": "claude", "usage": {"input_tokens": 3, "output_tokens": 2}}, Usage(3, 2)),
        (CHAT, None),
        ({"usage": "odd"}, None),
        ({"usage": {"prompt_tokens": "many", "completion_tokens": -1}}, None),
    ],
    ids=["chat", "embeddings", "responses", "anthropic", "silent", "odd", "junk"],
)
def test_a_whole_responses_own_usage_is_read(response: dict[str, Any], usage: Usage | None) -> None:
    """Whatever family; what is no count is absent, never an error."""
    found = reading(json.dumps(response).encode())
    if usage is None:
        assert found.usage is None or found.usage.total_tokens == 0
    else:
        assert found.usage == usage


def test_a_streams_last_usage_counts_and_its_texts_are_kept_without() -> None:
    """stream_options.include_usage, and the estimate's material where it was not asked for."""
    pieces = [{"model": "gpt-4o", "choices": [{"index": 0, "delta": {"content": text}}]} for text in ("Hel", "lo")]
    told = reading(stream(*pieces, {"model": "gpt-4o", "choices": [], "usage": COUNTS}), "text/event-stream")
    assert (told.usage, told.model) == (Usage(9, 4, 3, 2), "gpt-4o")
    silent = reading(stream(*pieces), "text/event-stream; charset=utf-8")
    assert silent.usage is None
    assert "".join(silent.texts) == "Hello"


def test_an_object_that_other_responses_show_too_has_its_id() -> None:
    """A background response is counted once, when it is finished."""
    begun = reading(json.dumps({"object": "response", "id": "resp_1", "background": True, "status": "queued"}).encode())
    assert (begun.once, begun.is_final) == ("resp_1", False)


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip"])
def test_a_coded_response_is_read(encoding: str) -> None:
    """The coding is undone off the path; the client's bytes are not touched."""
    body = gzip.compress(json.dumps({**CHAT, "usage": COUNTS}).encode())
    assert reading(body, encoding=encoding).usage == Usage(9, 4, 3, 2)


def test_memory_is_bounded_and_the_end_still_read() -> None:
    """Of a long stream a head and a tail are kept."""
    chunk = {"model": "gpt-4o", "choices": [{"index": 0, "delta": {"content": "x" * 500}}]}
    body = stream(*([chunk] * 2000), {"model": "gpt-4o", "choices": [], "usage": COUNTS})
    tap = Tap()
    for start in range(0, len(body), 4096):
        tap(body[start : start + 4096])
    kept = tap.finish()
    assert len(kept.head) + len(kept.tail) < 200_000 < len(body)
    assert read(kept, "text/event-stream").usage == Usage(9, 4, 3, 2)


@pytest.mark.parametrize("length", [0, 1, 20, 55])
def test_a_cut_body_is_no_error(length: int) -> None:
    """At whatever byte it broke off."""
    body = json.dumps({**CHAT, "usage": COUNTS}).encode()[:length]
    assert reading(body).usage is None


def test_counts_that_are_nested_deeply_are_no_error() -> None:
    """The reading keeps what else the response says."""
    counts = b'{"tokens":' * 900 + b"1" + b"}" * 900
    found = read(Body(b'{"model":"m","usage":' + counts + b"}"), "application/json")
    assert (found.model, found.usage) == ("m", None)
