"""Anthropic's messages: the `message_start` object with its content blocks filled in."""

from typing import Any

import orjson

from llm_proxy.formats.streams.base import Chunk, Merged, as_dict, as_index, as_text

_DELTAS = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}


class MessagesStream:
    """Merges one message."""

    def __init__(self) -> None:
        self._message: Chunk = {}
        self._blocks: dict[int, Chunk] = {}
        self._texts: dict[tuple[int, str], list[str]] = {}
        self._inputs: dict[int, list[str]] = {}
        self._ending: Chunk = {}
        self._usage: dict[str, Any] = {}
        self._error: Any = None

    def feed(self, name: str, chunk: Chunk) -> None:
        """Take the next event."""
        kind = as_text(chunk.get("type"))
        index = as_index(chunk.get("index"))
        if kind == "content_block_start":
            self._blocks.setdefault(index, dict(as_dict(chunk.get("content_block"))))
        elif kind == "content_block_delta":
            self._feed_delta(index, as_dict(chunk.get("delta")))
        else:
            self.feed_tail(name, chunk)

    def _feed_delta(self, index: int, delta: Chunk) -> None:
        kind = as_text(delta.get("type"))
        if kind in _DELTAS:
            field = _DELTAS[kind]
            self._blocks.setdefault(index, {"type": "thinking" if field == "signature" else field})
            self._texts.setdefault((index, field), []).append(as_text(delta.get(field)))
        elif kind == "input_json_delta":
            self._blocks.setdefault(index, {"type": "tool_use"})
            self._inputs.setdefault(index, []).append(as_text(delta.get("partial_json")))

    def feed_tail(self, name: str, chunk: Chunk) -> None:
        """Beginning, end, usage and errors."""
        kind = as_text(chunk.get("type"))
        if kind == "message_start":
            self._message = self._message or dict(as_dict(chunk.get("message")))
            self._usage = {**as_dict(self._message.get("usage")), **self._usage}
        elif kind == "message_delta":
            self._ending |= {key: value for key, value in as_dict(chunk.get("delta")).items() if value is not None}
            self._usage |= {key: value for key, value in as_dict(chunk.get("usage")).items() if value is not None}
        elif kind == "error":
            self._error = chunk.get("error") or self._error

    def merged(self) -> Merged:
        """Return the message so far."""
        for (index, field), pieces in self._texts.items():
            block = self._blocks[index]
            block[field] = as_text(block.get(field)) + "".join(pieces)
        for index, pieces in self._inputs.items():
            self._blocks[index]["input"] = _parsed("".join(pieces))
        response: Chunk = {"type": "message", "role": "assistant", **self._message, **self._ending}
        response["content"] = [self._blocks[index] for index in sorted(self._blocks)]
        if self._usage:
            response["usage"] = self._usage
        if self._error:
            response["error"] = self._error
        spoken = [as_text(block.get("text")) for block in response["content"]]
        text = "".join([*spoken, *("".join(pieces) for pieces in self._inputs.values())])
        self._texts, self._inputs = {}, {}
        return Merged(response, text, bool(self._error))


def _parsed(arguments: str) -> Any:
    """Return the tool's input; the text itself while it is not whole."""
    try:
        return orjson.loads(arguments) if arguments else {}
    except ValueError:
        return arguments
