"""Event streams, event by event, as the providers send them."""

import json
from collections.abc import Iterator
from typing import Any

from llm_proxy_simulator.usage import Counts

_DONE = b"data: [DONE]\n\n"


def _data(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def tool_call(asked: dict[str, Any]) -> dict[str, Any]:
    """Return a call of the first tool that a chat request offers."""
    tools: list[dict[str, Any]] = asked.get("tools") or [{}]
    tool = tools[0].get("function") or {}
    function = {"name": tool.get("name", "tool"), "arguments": '{"city": "Paris"}'}
    return {"id": "call_sim", "type": "function", "function": function}


def chat_events(
    frame: dict[str, Any], counts: Counts, calls: list[dict[str, Any]], *, with_usage: bool, done: bool
) -> Iterator[bytes]:
    """Chat completion chunks; with `with_usage` a last one without choices carries the counts."""
    frame = frame | {"object": "chat.completion.chunk", "service_tier": "default", "system_fingerprint": "fp_simulated"}
    none = {"usage": None} if with_usage else {}

    def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return _data(frame | {"choices": [choice]} | none)

    yield chunk({"role": "assistant", "content": "", "refusal": None})
    for index, call in enumerate(calls):
        named = {"name": call["function"]["name"], "arguments": ""}
        yield chunk({"tool_calls": [{**call, "index": index, "function": named}]})
        for part in ('{"city": ', '"Paris"}'):
            yield chunk({"tool_calls": [{"index": index, "function": {"arguments": part}}]})
    for word in () if calls else counts.words:
        yield chunk({"content": word})
    yield chunk({}, "tool_calls" if calls else counts.finish_reason)
    if with_usage:
        yield _data(frame | {"choices": [], "usage": counts.chat_usage()})
    if done:
        yield _DONE


def completion_events(frame: dict[str, Any], counts: Counts, *, with_usage: bool, done: bool) -> Iterator[bytes]:
    """Completion chunks of the older API."""
    frame = frame | {"object": "text_completion"}
    none = {"usage": None} if with_usage else {}
    for number, word in enumerate(counts.words, 1):
        reason = counts.finish_reason if number == len(counts.words) else None
        choice = {"index": 0, "text": word, "logprobs": None, "finish_reason": reason}
        yield _data(frame | {"choices": [choice]} | none)
    if with_usage:
        yield _data(frame | {"choices": [], "usage": counts.chat_usage()})
    if done:
        yield _DONE


def response_object(frame: dict[str, Any], counts: Counts, item_id: str, status: str = "completed") -> dict[str, Any]:
    """Return an object of the responses API; without output and counts while it is in progress."""
    is_over = status != "in_progress"
    return {
        **frame,
        "object": "response",
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "max_output_tokens": None,
        "output": [_item(item_id, counts.text, "completed")] if is_over else [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": counts.response_usage() if is_over else None,
        "metadata": {},
    }


def _item(item_id: str, text: str, status: str) -> dict[str, Any]:
    content = [_part(text)] if status == "completed" else []
    return {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": content}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def response_events(frame: dict[str, Any], counts: Counts, item_id: str) -> Iterator[bytes]:
    """Events of the responses API, named and numbered; the last carries the whole object with its counts."""
    number = -1

    def event(kind: str, **about: Any) -> bytes:
        nonlocal number
        number += 1
        data = {"type": kind, "sequence_number": number, **about}
        return f"event: {kind}\n".encode() + _data(data)

    begun = response_object(frame, counts, item_id, "in_progress")
    place = {"item_id": item_id, "output_index": 0, "content_index": 0}
    yield event("response.created", response=begun)
    yield event("response.in_progress", response=begun)
    yield event("response.output_item.added", output_index=0, item=_item(item_id, "", "in_progress"))
    yield event("response.content_part.added", **place, part=_part(""))
    for word in counts.words:
        yield event("response.output_text.delta", **place, delta=word, logprobs=[])
    yield event("response.output_text.done", **place, text=counts.text, logprobs=[])
    yield event("response.content_part.done", **place, part=_part(counts.text))
    yield event("response.output_item.done", output_index=0, item=_item(item_id, counts.text, "completed"))
    status = "incomplete" if counts.is_cut else "completed"
    yield event(f"response.{status}", response=response_object(frame, counts, item_id, status))
