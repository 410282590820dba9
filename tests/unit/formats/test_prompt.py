"""formats.prompt and formats.texts: what a request gives the model to read, however it is sent or cut."""

import json
from typing import Any

import pytest
import zstandard

from llm_proxy.formats.prompt import read_prompt
from llm_proxy.formats.texts import texts_of, texts_of_cut_json

PICTURE = "iVBORw0KGgo" * 100


@pytest.mark.parametrize(
    ("asked", "text", "token_ids"),
    [
        ({"messages": [{"role": "user", "content": "hi"}]}, "hi", 0),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}], "system": "be"}, "hibe", 0),
        ({"input": ["one", "two"]}, "onetwo", 0),
        ({"input": [[1, 2, 3], [4]]}, "", 4),
        ({"prompt": [1, 2, 3]}, "", 3),
        ({"contents": [{"parts": [{"text": "hi"}]}], "systemInstruction": {"parts": [{"text": "be"}]}}, "hibe", 0),
        ({"content": {"parts": [{"text": "embed"}]}}, "embed", 0),
        ({"messages": [{"content": [{"type": "image_url", "image_url": {"url": f"data:;base64,{PICTURE}"}}]}]}, "", 0),
        ({"messages": [{"content": [{"type": "input_audio", "input_audio": {"data": PICTURE}}]}]}, "", 0),
        ({"messages": [{"content": [{"type": "image", "source": {"data": PICTURE}}]}]}, "", 0),
    ],
)
def test_texts_of_each_api(asked: dict[str, Any], text: str, token_ids: int) -> None:
    """Pictures and sound are none; a number in place of a text is one token."""
    found = read_prompt(json.dumps(asked).encode())
    assert ("".join(found.texts), found.token_ids) == (text, token_ids)


def test_a_compressed_request_is_read() -> None:
    """Its coding is undone."""
    body = json.dumps({"model": "m", "messages": [{"content": "x" * 2000}]}).encode()
    found = read_prompt(zstandard.ZstdCompressor().compress(body), "zstd")
    assert (found.model, len("".join(found.texts))) == ("m", 2000)


def test_a_request_that_is_not_kept_whole_counts_by_what_is_kept() -> None:
    """Its texts stand for the whole."""
    body = json.dumps({"messages": [{"content": "x" * 100_000}]}).encode()
    found = read_prompt(body[:50_000], total_bytes=len(body))
    assert len("".join(found.texts)) * found.scale == pytest.approx(100_000, rel=0.01)


@pytest.mark.parametrize("kept", [b"\x28\xb5\x2f\xfd\x00\x01", b"hello", b"{" * 50])
def test_what_cannot_be_read_is_said_to_be_unreadable(kept: bytes) -> None:
    """So that it counts by its size."""
    found = read_prompt(kept)
    assert (found.is_readable, found.total_bytes) == (False, len(kept))


def test_no_nesting_is_too_deep() -> None:
    """The walk does not recurse."""
    deep: Any = {"content": "end"}
    for _ in range(100_000):
        deep = [deep]
    assert texts_of([{"content": "start"}, deep]) == ["start", "end"]


@pytest.mark.parametrize(
    ("head", "tail", "texts", "is_text"),
    [
        (b'{"choices":[{"message":{"content":"abc', b'def"},"text":"g"}]}', ["abc", "def", "g"], True),
        (b'{"data":[{"embedding":[0.1,0.2', b'0.3]}],"model":"m"}', [], False),
        (b'{"data":[{"b64_json":"AAAA', b'BBBB"}],"created":1}', [], False),
    ],
)
def test_both_ends_of_a_cut_object(head: bytes, tail: bytes, texts: list[str], is_text: bool) -> None:
    """What is missing is text only where a text is cut, not a vector or a picture."""
    assert texts_of_cut_json(head, tail) == (texts, is_text)


def test_of_a_long_compressed_request_a_part_is_read_and_stands_for_the_whole() -> None:
    """No small body costs seconds, and none counts less than it says."""
    body = json.dumps({"model": "m", "messages": [{"content": "abcdefg " * 125_000}]}).encode()
    found = read_prompt(zstandard.ZstdCompressor().compress(body), "zstd")
    assert found.total_bytes == len(body)
    assert len("".join(found.texts)) < 400_000
    assert len("".join(found.texts)) * found.scale == pytest.approx(1_000_000, rel=0.01)
