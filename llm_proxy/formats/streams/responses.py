"""Responses API: the final object as it was sent, or what the deltas before the end amount to."""

from typing import Any

from llm_proxy.formats.streams.base import Chunk, Merged, as_dict, as_index, as_list, as_text

_FINAL = ("response.completed", "response.incomplete", "response.failed", "response.done")  # the last: Realtime
_TEXT_DELTAS = {"response.output_text.delta": ("output_text", "text"), "response.refusal.delta": ("refusal", "refusal")}
_ARGUMENT_DELTAS = {
    "response.function_call_arguments.delta": "arguments",
    "response.mcp_call_arguments.delta": "arguments",
    "response.custom_tool_call_input.delta": "input",
}


class ResponsesStream:
    """Merges one response."""

    def __init__(self) -> None:
        self._final: Chunk | None = None
        self._created: Chunk = {}
        self._items: dict[int, Chunk] = {}
        self._parts: dict[int, dict[int, tuple[str, str, list[str]]]] = {}  # by item and content
        self._arguments: dict[int, tuple[str, list[str]]] = {}
        self._error: Any = None

    def feed(self, name: str, chunk: Chunk) -> None:
        """Take the next event."""
        kind, place = as_text(chunk.get("type")), as_index(chunk.get("output_index"))
        delta = as_text(chunk.get("delta"))
        if kind in _TEXT_DELTAS:
            parts = self._parts.setdefault(place, {})
            parts.setdefault(as_index(chunk.get("content_index")), (*_TEXT_DELTAS[kind], []))[2].append(delta)
        elif kind in _ARGUMENT_DELTAS:
            self._arguments.setdefault(place, (_ARGUMENT_DELTAS[kind], []))[1].append(delta)
        elif kind == "response.output_item.added":
            self._items.setdefault(place, dict(as_dict(chunk.get("item"))))
        else:
            self.feed_tail(name, chunk)

    def feed_tail(self, name: str, chunk: Chunk) -> None:
        """Whole objects need no predecessor."""
        kind = as_text(chunk.get("type"))
        if kind in _FINAL and as_dict(chunk.get("response")):
            self._final = as_dict(chunk.get("response"))
        elif kind in ("response.created", "response.in_progress", "response.queued"):
            self._created = self._created or as_dict(chunk.get("response"))
        elif kind == "response.output_item.done":
            place = as_index(chunk.get("output_index"))
            self._items[place] = dict(as_dict(chunk.get("item")))
            self._arguments.pop(place, None)
            self._parts.pop(place, None)
        elif kind == "error":
            self._error = chunk.get("error") or {k: v for k, v in chunk.items() if k in ("code", "message", "param")}

    def merged(self) -> Merged:
        """Return the response so far."""
        response = self._final if self._final is not None else self._pieced()
        error = response.get("error") or self._error
        if error and not response.get("error"):
            response["error"] = error
        return Merged(response, _text_of(response), bool(error) or response.get("status") == "failed")

    def _pieced(self) -> Chunk:
        items: dict[int, Chunk] = {place: dict(item) for place, item in self._items.items()}
        for place, parts in sorted(self._parts.items()):
            item = items.setdefault(place, {"type": "message", "role": "assistant"})
            more = [{"type": kind, field: "".join(pieces)} for _, (kind, field, pieces) in sorted(parts.items())]
            item["content"] = [*as_list(item.get("content")), *more]
        for place, (field, pieces) in sorted(self._arguments.items()):
            item = items.setdefault(place, {"type": "function_call"})
            item[field] = "".join(pieces)
        response: Chunk = {"object": "response", **self._created, "status": "incomplete"}
        response["output"] = [items[place] for place in sorted(items)]
        return response


def _text_of(response: Chunk) -> str:
    texts = []
    for entry in as_list(response.get("output")):
        item = as_dict(entry)
        texts += [as_text(item.get("arguments")), as_text(item.get("input"))]
        for part in as_list(item.get("content")):
            texts += [as_text(as_dict(part).get("text")), as_text(as_dict(part).get("refusal"))]
    return "".join(texts)
