"""dispatcher.transform: what services get to see of an event."""

import gzip
import json
import sys
import types
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.dispatcher import make_event

from llm_proxy.dispatcher.backends.file import to_line
from llm_proxy.dispatcher.backends.helicone import body_of
from llm_proxy.dispatcher.backends.lunary import run_events
from llm_proxy.dispatcher.backends.otlp import attributes_of
from llm_proxy.dispatcher.payload import Payload, to_json
from llm_proxy.dispatcher.transform import Transformer, Unparsable
from llm_proxy.events.bus import Entry
from llm_proxy.events.event import Event
from llm_proxy.formats.tokens import Estimator, encoding_name
from llm_proxy.formats.usage import Usage

ENTRY = Entry("1760000000500-0", b"{}", 1_760_000_000_500)
ORDER = ["type", "event", "runId", "name", "timestamp", "input", "output", "userId", "tokensUsage", "extra", "metadata"]


def payload(event: Event, **options: Any) -> Payload:
    """The event's payload."""
    made = Transformer(key="k", estimator=Estimator(None), **options)
    return made.payload(event, ENTRY)


def test_the_documented_keys_in_their_order() -> None:
    """Names, order, values and the run's id; the provider's own usage, the response itself, no wrapper."""
    found = payload(make_event(5)).to_dict()
    assert [name for name in found if name in ORDER] == [name for name in ORDER if name in found]
    assert list(found)[-1] == "log_id"
    assert (found["type"], found["event"], found["name"]) == ("llm", "start", "gpt-4o-mini")
    assert found["output"]["choices"][0]["message"]["content"] == "answer 5"
    assert found["input"]["messages"][0]["content"] == "question 5"
    assert found["tokensUsage"] == {"completion": 3, "prompt": 7}
    assert found["extra"] == {"temperature": 0.5}
    assert found["metadata"]["duration_ms"] == 250
    assert found["metadata"]["project_id"] == "p"
    assert found["runId"] == make_event(5).event_id
    assert "userId" not in found


def test_a_foreign_event_gets_an_id_and_a_time_that_stay() -> None:
    """Without EventID and Timestamp: made from key and entry, the same at each delivery."""
    event = make_event(1, event_id="", started_at=None)
    one, two = payload(event), payload(event)
    assert one.run_id == two.run_id
    assert len(one.run_id) == 36
    assert one.started_at.timestamp() == pytest.approx(1_760_000_000.25)


@pytest.mark.parametrize(
    ("body", "media_type", "expected"),
    [
        (b'{"a":1}', "application/json", {"a": 1}),
        (b"hello", "text/plain", "hello"),
        (b"--x", "multipart/form-data; boundary=x", "<multipart request omitted>"),
        (b"\xff\xfe\x00", "application/x-unknown", "<binary request omitted>"),
        (b'{"model":"gpt', "application/json", '{"model":"gpt'),
    ],
)
def test_inputs(body: bytes, media_type: str, expected: Any) -> None:
    """JSON as it is, text as text, the rest as a note; cut JSON as the text that is there."""
    event = make_event(1, request_body=body, request_content_type=media_type, request_truncated=True)
    found = payload(event)
    assert found.input == expected
    assert found.metadata["truncated"] is True


@pytest.mark.parametrize(
    ("body", "media_type", "encoding", "expected"),
    [
        (b'{"a":1}', "application/json", "", {"a": 1}),
        (gzip.compress(b'{"a":1}', mtime=0), "application/json", "GZIP", {"a": 1}),
        (gzip.compress(b'{"a":1}' * 100, mtime=0)[:40], "application/json", "gzip", None),
        (b"[1,2]", "application/json", "", [1, 2]),
        (b"hi\x01\x02", "text/plain", "", "hi\x01\x02"),
        (b"\xff\xfe", "application/json", "", "<binary omitted>"),
        (b"\xff\xfe", "audio/mpeg", "", "<binary response omitted>"),
        (b"--x", "multipart/mixed", "", "<multipart response omitted>"),
        (b"\x00nonsense", "text/plain", "br", "<binary response omitted>"),
    ],
)
def test_outputs(body: bytes, media_type: str, encoding: str, expected: Any) -> None:
    """Whatever the provider sent, in its coding, becomes one JSON value."""
    headers = {"content-type": [media_type], "CONTENT-encoding": [encoding]}
    found = payload(make_event(1, response_body=body, response_headers=headers, response_truncated=True))
    assert found.has_output
    if expected is None:
        assert isinstance(found.output, str)
        assert found.output.startswith('{"a":1}')
    else:
        assert found.output == expected
    json.loads(to_json(found.to_dict()))


def test_bodies_that_were_not_captured_are_noted_or_left_out() -> None:
    """A picture is a note; a project without bodies shows nothing, and keeps its usage."""
    headers = {"Content-Type": ["image/png"]}
    picture = payload(make_event(1, response_body=None, response_headers=headers, response_bytes=99))
    assert picture.output == "<binary response omitted>"
    private = payload(
        make_event(
            1, request_body=None, response_body=None, request_bytes=9, response_bytes=9, usage={"prompt_tokens": 4}
        )
    )
    assert not private.has_input
    assert not private.has_output
    assert private.usage == Usage(4)


def test_a_stream_is_one_response() -> None:
    """With model, usage and text of all its chunks."""
    chunk = {"model": "gpt-x", "choices": [{"index": 0, "delta": {"content": "hi"}}], "usage": {"prompt_tokens": 1}}
    body = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode()
    found = payload(make_event(1, response_body=body, response_headers={"Content-Type": ["text/event-stream"]}))
    assert found.output["object"] == "chat.completion"
    assert (found.name, found.usage) == ("gpt-x", Usage(1))


def test_missing_usage_is_estimated_and_said_so() -> None:
    """Characters by four, without any network; not for errors, and not when it is switched off."""
    body = json.dumps({"choices": [{"message": {"content": "x" * 40}}]}).encode()
    found = payload(make_event(1, response_body=body))
    assert found.usage is not None
    assert found.usage.completion_tokens == 10
    assert found.metadata["tokens_estimated"] is True
    assert payload(make_event(1, response_body=body, status=500)).usage is None
    assert Transformer(key="k").payload(make_event(1, response_body=body), ENTRY).usage is None


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("gpt-4o-mini", "o200k_base"),
        ("o1-preview", "o200k_base"),
        ("o3", "o200k_base"),
        ("gpt-5", "o200k_base"),
        ("chatgpt-4o-latest", "o200k_base"),
        ("omni-x", "o200k_base"),
        ("gpt-4", "cl100k_base"),
        ("claude-3", "cl100k_base"),
        ("", "cl100k_base"),
    ],
)
def test_encodings_by_model(model: str, expected: str) -> None:
    """As documented."""
    assert encoding_name(model) == expected


def test_who_asked_and_how_it_failed() -> None:
    """`user` or `safety_identifier`; the response's own error message, else the status or outcome."""
    asked = {"model": "m", "safety_identifier": "u1", "tools": [1], "stream": True, "seed": 5}
    found = payload(make_event(1, request_body=json.dumps(asked).encode()))
    assert (found.user_id, found.extra) == ("u1", {"safety_identifier": "u1", "seed": 5})
    refused = payload(make_event(1, status=429, response_body=b'{"error":{"message":"slow down"}}'))
    assert (refused.is_error, refused.error) == (True, "slow down")
    assert payload(make_event(1, status=502, response_body=None)).error == "HTTP 502"
    assert payload(make_event(1, outcome="upstream_aborted")).error == "upstream_aborted"


def test_verbose_adds_the_responses_fields() -> None:
    """For JSON responses, too."""
    assert payload(make_event(1), is_verbose=True).metadata["response_headers"] == {
        "Content-Type": ["application/json"]
    }


@pytest.mark.parametrize("method", ["GET", "OPTIONS", "HEAD"])
def test_only_posts_are_wanted_unless_told_otherwise(method: str) -> None:
    """--methods widens it."""
    assert not Transformer(key="k").wants(make_event(1, method=method))
    assert Transformer(key="k", methods=("POST", method)).wants(make_event(1, method=method))


@pytest.mark.parametrize("data", [None, b"", b"[]", b"{", b"\xff"])
def test_an_entry_that_is_no_event_says_so(data: bytes | None) -> None:
    """Unparsable, for the dead letters."""
    with pytest.raises(Unparsable):
        Transformer(key="k").event(Entry("1-0", data))


BODIES = st.binary(max_size=120) | st.sampled_from(
    [
        b"[" * 300 + b"]" * 300,
        b'{"choices":[{"message":{"tool_calls":[{"function":5}]}}],"usage":{"prompt_tokens":-1}}',
        b'{"choices":5,"model":7,"error":["x"]}',
        b'data: {"choices":[{"delta":{"content":7}}]}\n\n',
        b"\x00\x01\x1f",
        '"\u2028 \x7f"'.encode(),
        b'{"n":' + b"9" * 400 + b"}",
    ]
)
TYPES = st.sampled_from(["application/json", "text/event-stream", "text/plain", "", "audio/mpeg", "multipart/x"])
CODINGS = st.sampled_from(["", "gzip", "br", "zstd", "deflate", "nonsense", "gzip, br"])


@settings(max_examples=300, deadline=None)
@given(BODIES, BODIES, TYPES, TYPES, CODINGS, st.text(max_size=8), st.integers(-5, 700))
def test_any_event_becomes_valid_json_everywhere(
    request: bytes, response: bytes, asked_type: str, type_: str, coding: str, name: str, status: int
) -> None:
    """Random bytes as bodies, fields and codings: every back end's form of it parses."""
    event = make_event(
        1,
        request_body=request,
        response_body=response,
        request_content_type=asked_type,
        request_content_encoding=coding,
        response_headers={"Content-Type": [type_], "Content-Encoding": [coding], name: [name]},
        status=status,
        event_id=name,
        duration_ns=status,
    )
    found = payload(event, is_verbose=True, keeps_binary=True)
    for text in (to_line(found), body_of(found), *(to_json(one) for one in run_events(found))):
        orjson.loads(text)
    attributes_of(found)


def test_a_tokenizer_is_used_where_its_files_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the extra installed: its counts; where a file is missing, characters, and nothing is fetched."""
    fetched: list[str] = []

    class Encoding:
        def encode(self, text: str, **_: Any) -> list[str]:
            return text.split(" ")

    loading = types.ModuleType("tiktoken.load")
    loading.read_file = fetched.append  # type: ignore[attr-defined]
    tiktoken = types.ModuleType("tiktoken")

    def get_encoding(name: str) -> Encoding:
        if not (tmp_path / name).exists():
            loading.read_file(f"https://far.example/{name}")
        return Encoding()

    tiktoken.get_encoding = get_encoding  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tiktoken", tiktoken)
    monkeypatch.setitem(sys.modules, "tiktoken.load", loading)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    (tmp_path / "o200k_base").touch()
    estimator = Estimator(str(tmp_path))
    assert estimator.count(["a b", " c"], "gpt-4o") == 3
    assert estimator.count(["abcdefgh"], "gpt-4") == 2
    assert fetched == []
