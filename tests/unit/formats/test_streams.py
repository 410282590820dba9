"""formats.streams: event streams become the response that they stand for, wherever they are cut."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_proxy.formats.sse import events, is_event_stream
from llm_proxy.formats.streams import merge

CASES = sorted((Path(__file__).parents[2] / "cases" / "streams").glob("*.sse"))


def sse(*chunks: Any, end: str = "\n\n", done: bool = True) -> bytes:
    """Chunks as an event stream; a pair gives the event's name, too."""
    found = []
    for chunk in chunks:
        name, data = chunk if isinstance(chunk, tuple) else (None, chunk)
        found.append((f"event: {name}{end[: len(end) // 2]}" if name else "") + f"data: {json.dumps(data)}{end}")
    return ("".join(found) + (f"data: [DONE]{end}" if done else "")).encode()


def chat(*deltas: dict[str, Any], finish: str | None = "stop", index: int = 0) -> list[dict[str, Any]]:
    """Chunks of a chat completion."""
    top = {"id": "c1", "object": "chat.completion.chunk", "created": 5, "model": "gpt-x"}
    found = [{**top, "choices": [{"index": index, "delta": delta, "finish_reason": None}]} for delta in deltas]
    return [*found, {**top, "choices": [{"index": index, "delta": {}, "finish_reason": finish}]}]


def merged_response(body: bytes, tail: bytes | None = None) -> dict[str, Any]:
    """The merged response."""
    merged = merge(body, tail)
    assert merged is not None
    return merged.response


def test_the_standards_line_endings_comments_and_joins() -> None:
    """CR, LF and CRLF, an optional blank, several data lines, comments, an unterminated last event."""
    body = b"\xef\xbb\xbf: hi\rdata:a\rdata: b\r\r\r\nevent: n\r\ndata: c\r\n\r\nid: 5\ndata\n\ndata: d"
    assert list(events(body)) == [("", b"a\nb"), ("n", b"c"), ("", b""), ("", b"d")]


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n", "\r\r"], ids=["lf", "crlf", "cr"])
def test_a_chat_stream_becomes_a_completion(end: str) -> None:
    """Text joined, reason, usage, ids, and the object's name of a whole response; without [DONE], too."""
    chunks = [*chat({"role": "assistant", "content": "Hel"}, {"content": "lo"}), {"choices": [], "usage": {"a": 1}}]
    expected = {
        "id": "c1",
        "object": "chat.completion",
        "created": 5,
        "model": "gpt-x",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
        "usage": {"a": 1},
    }
    assert merged_response(sse(*chunks, end=end)) == expected
    assert merged_response(sse(*chunks, end=end, done=False)) == expected


def test_tool_calls_come_together_by_their_index() -> None:
    """Two calls whose arguments arrive in interleaved pieces."""
    calls = [
        {"tool_calls": [{"index": 0, "id": "t0", "type": "function", "function": {"name": "f", "arguments": '{"a"'}}]},
        {"tool_calls": [{"index": 1, "id": "t1", "type": "function", "function": {"name": "g", "arguments": "{}"}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]},
    ]
    message = merged_response(sse(*chat(*calls, finish="tool_calls")))["choices"][0]["message"]
    assert message["content"] is None
    assert message["tool_calls"] == [
        {"id": "t0", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
        {"id": "t1", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]


def test_several_choices_refusals_reasoning_audio_and_logprobs() -> None:
    """Everything that a delta may carry is merged per choice."""
    first = chat({"content": "a", "reasoning_content": "r1"}, {"reasoning_content": "r2"}, {"content": "b"})
    second = chat({"refusal": "no"}, {"refusal": "pe"}, {"audio": {"id": "x", "transcript": "t"}}, index=1)
    second[3]["choices"][0]["delta"] = {"audio": {"transcript": "u"}}
    first[0]["choices"][0]["logprobs"] = {"content": [{"token": "a"}]}
    first[2]["choices"][0]["logprobs"] = {"content": [{"token": "b"}]}
    choices = merged_response(sse(*first, *second))["choices"]
    assert choices[0]["message"] == {"role": "assistant", "content": "ab", "reasoning_content": "r1r2"}
    assert choices[0]["logprobs"] == {"content": [{"token": "a"}, {"token": "b"}]}
    assert choices[1]["message"]["refusal"] == "nope"
    assert choices[1]["message"]["audio"] == {"id": "x", "transcript": "tu"}


def test_no_piece_of_audio_is_lost_behind_null() -> None:
    """Some providers send null until there is something."""
    words = [{"audio": {"transcript": text}} for text in (None, "Hello ", "big ", None, "world")]
    message = merged_response(sse(*chat(*words)))["choices"][0]["message"]
    assert message["audio"] == {"transcript": "Hello big world"}


def test_an_error_in_a_stream_is_kept_and_makes_the_run_an_error() -> None:
    """What was written before it stays, too."""
    merged = merge(sse(*chat({"content": "a"}), {"error": {"message": "overloaded"}}))
    assert merged is not None
    assert merged.is_error
    assert merged.response["error"] == {"message": "overloaded"}
    assert merged.response["choices"][0]["message"]["content"] == "a"


def test_legacy_completions() -> None:
    """Pieces of text per choice."""
    chunks = [
        {"object": "text_completion", "id": "l", "choices": [{"index": i, "text": t}]}
        for i, t in [(0, "a"), (1, "x"), (0, "b")]
    ]
    found = merged_response(
        sse(*chunks, {"object": "text_completion", "choices": [{"index": 0, "text": "", "finish_reason": "stop"}]})
    )
    assert [choice["text"] for choice in found["choices"]] == ["ab", "x"]
    assert found["object"] == "text_completion"
    assert found["choices"][0]["finish_reason"] == "stop"


def test_an_assistants_run() -> None:
    """Ids from the first run event, status from the last, the whole message in place of its deltas."""
    run = {"id": "run_1", "object": "thread.run", "created_at": 9, "assistant_id": "a", "thread_id": "t", "model": "m"}
    found = merged_response(
        sse(
            ("thread.run.created", {**run, "status": "queued"}),
            ("thread.message.delta", {"id": "m1", "delta": {"content": [{"type": "text", "text": {"value": "Hel"}}]}}),
            ("thread.message.completed", {"id": "m1", "role": "assistant", "content": [{"text": {"value": "Hello"}}]}),
            ("thread.message.delta", {"id": "m2", "delta": {"content": [{"type": "text", "text": {"value": "Bye"}}]}}),
            ("thread.run.step.completed", {"usage": {"prompt_tokens": 1}}),
            ("thread.run.completed", {**run, "status": "completed", "usage": {"prompt_tokens": 2}}),
        )
    )
    assert found == {
        "id": "run_1",
        "object": "thread.run",
        "created_at": 9,
        "assistant_id": "a",
        "thread_id": "t",
        "status": "completed",
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello\nBye"}, "finish_reason": ""}],
        "usage": {"prompt_tokens": 2},
    }


def responses(*more: dict[str, Any]) -> list[Any]:
    """A response's events up to its deltas."""
    return [
        {
            "type": "response.created",
            "response": {"id": "resp", "object": "response", "model": "m", "status": "in_progress"},
        },
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {"type": "message", "id": "i0", "content": []},
        },
        {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "Hel"},
        {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "lo"},
        {"type": "response.output_item.added", "output_index": 1, "item": {"type": "function_call", "name": "f"}},
        {"type": "response.function_call_arguments.delta", "output_index": 1, "delta": "{}"},
        *more,
    ]


def test_a_response_is_its_final_object() -> None:
    """`response.completed` carries the whole."""
    final = {"id": "resp", "object": "response", "status": "completed", "output": [], "usage": {"input_tokens": 1}}
    assert merged_response(sse(*responses({"type": "response.completed", "response": final}), done=False)) == final


def test_a_response_without_its_end_is_built_from_deltas() -> None:
    """Marked incomplete, with text and arguments so far."""
    found = merged_response(sse(*responses(), done=False))
    assert (found["status"], found["model"]) == ("incomplete", "m")
    assert found["output"] == [
        {"type": "message", "id": "i0", "content": [{"type": "output_text", "text": "Hello"}]},
        {"type": "function_call", "name": "f", "arguments": "{}"},
    ]


def test_an_anthropic_message() -> None:
    """Blocks from deltas, the tool's input parsed, usage of the start and the end together."""
    found = merged_response(
        sse(
            {
                "type": "message_start",
                "message": {
                    "id": "m",
                    "type": "message",
                    "role": "assistant",
                    "model": "c",
                    "content": [],
                    "usage": {"input_tokens": 3, "output_tokens": 1},
                },
            },
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
            {
                "type": "content_block_start",
                "index": 1,
                "content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {}},
            },
            {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"a":'}},
            {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "1}"}},
            {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 9}},
            done=False,
        )
    )
    assert found["content"] == [
        {"type": "text", "text": "Hi"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
    ]
    assert (found["stop_reason"], found["usage"]) == ("tool_use", {"input_tokens": 3, "output_tokens": 9})


def test_after_a_gap_only_the_end_counts() -> None:
    """Usage and reason come from the tail; its text does not, and its first, cut event is left out."""
    tail = sse(
        {"choices": [{"index": 0, "delta": {"content": "zzz"}, "finish_reason": "length"}]},
        {"choices": [], "usage": {"total_tokens": 4}},
    )
    found = merged_response(sse(*chat({"content": "a"}, finish=None), done=False), b'"broken"}]}\n\n' + tail)
    assert found["choices"][0]["message"]["content"] == "a"
    assert found["choices"][0]["finish_reason"] == "length"
    assert found["usage"] == {"total_tokens": 4}


FINAL = {
    "type": "response.completed",
    "response": {"status": "completed", "output": [{"content": [{"text": "Hello"}]}, {"arguments": "{}"}]},
}
FAMILIES: dict[str, Callable[[], bytes]] = {
    "chat": lambda: sse(*chat({"content": "Hé"}, {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]})),
    "chat-crlf": lambda: sse(*chat({"content": "a"}), *chat({"content": "b"}, index=1), end="\r\n\r\n"),
    "comments": lambda: b": keep-alive\n\n" + sse(*chat({"content": "a"})) + b": bye\n",
    "responses": lambda: sse(*responses(FINAL)),
    "assistants": lambda: sse(("thread.run.created", {"id": "r"}), ("thread.message.delta", {"id": "m", "delta": {}})),
    "anthropic": lambda: sse(
        {"type": "message_start", "message": {"id": "m"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": '{"a":1}'}},
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cut_at_any_byte_is_merged_as_far_as_it_goes(family: str) -> None:
    """No exception and valid JSON at every offset, as head and as tail; and the text only ever grows."""
    body = FAMILIES[family]()
    length = 0
    for at in range(len(body) + 1):
        merged = merge(body[:at])
        if merged is not None:
            json.dumps(merged.response)
            assert len(merged.text) >= length
            length = len(merged.text)
        merge(body[: at // 2], body[at:])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**40) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    [
        "id",
        "object",
        "type",
        "choices",
        "delta",
        "message",
        "content",
        "tool_calls",
        "function",
        "arguments",
        "index",
        "usage",
        "error",
        "finish_reason",
        "text",
        "logprobs",
        "audio",
        "response",
        "output",
        "item",
        "output_index",
        "content_index",
        "content_block",
        "partial_json",
        "created",
        "model",
    ]
)
TYPES = st.sampled_from(
    [
        "response.created",
        "response.output_text.delta",
        "response.output_item.done",
        "response.completed",
        "error",
        "message_start",
        "content_block_start",
        "content_block_delta",
        "message_delta",
        "chat.completion.chunk",
        "thread.run",
        "thread.message.delta",
        "text_completion",
        "text_delta",
        "input_json_delta",
    ]
)
ODD = st.recursive(
    JSON | TYPES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner | TYPES, max_size=5),
    max_leaves=25,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.dictionaries(NAMES, ODD | TYPES, max_size=6), max_size=6))
def test_any_json_in_any_place_is_survived(chunks: list[dict[str, Any]]) -> None:
    """Chunks that are JSON but nothing else: never an exception, always something that JSON can hold."""
    merged = merge(sse(*chunks), sse(*chunks))
    if merged is not None:
        json.dumps(merged.response)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_survived(body: bytes) -> None:
    """Random bytes behind a plausible beginning."""
    merge(b"data: " + body, body)
    is_event_stream("", body)


def _call(name: str | None = None, arguments: str = "", **more: object) -> dict[str, object]:
    function = {"arguments": arguments} if name is None else {"name": name, "arguments": arguments}
    return {**more, "function": function}


@pytest.mark.parametrize(
    "pieces",
    [
        [[_call("f", '{"a":', id="a")], [_call("g", '{"b":1}', id="b")], [_call(arguments="", id="b")]],
        [[_call("f", '{"a":', id="a", index=0)], [_call("g", '{"b":1}', id="b", index=0)]],
        [[_call("f", '{"a":', id="a"), _call("g", '{"b":1}', id="b")]],
        [[_call("f", '{"a":')], [_call("g", '{"b":1}')]],
        [[_call("f", '{"a":', id="a", index=0)], [_call("g", '{"b":', id="b", index=0)], [_call(None, "1}", index=0)]],
        [[_call("f", '{"a":', id="a", index=0)], [_call("g", '{"b":', id="b", index=1)], [_call(None, "1}", index=1)]],
        [[_call("f", '{"a":', index=0)], [_call("g", '{"b":', index=0)], [_call("g", "1}", index=0)]],
    ],
    ids=[
        "no index",
        "index 0 for all",
        "one chunk",
        "neither",
        "index 0, in pieces",
        "as documented",
        "no id, index 0",
    ],
)
def test_tool_calls_stay_apart(pieces: list[list[dict[str, object]]]) -> None:
    """Whatever index a compatible provider gives them, or none."""
    body = b"".join(
        b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"tool_calls": calls}}]}).encode() + b"\n\n"
        for calls in pieces
    )
    found = merge(body)
    assert found is not None
    calls = [call["function"] for call in found.response["choices"][0]["message"]["tool_calls"]]
    assert calls == [{"name": "f", "arguments": '{"a":'}, {"name": "g", "arguments": '{"b":1}'}]
