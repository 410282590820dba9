"""Assistants: the events of a run become one object in the manner of a completion."""

from typing import Any

from llm_proxy.formats.streams.base import Chunk, Merged, as_dict, as_list, as_text, first

_RUN = ("assistant_id", "thread_id")


class AssistantsStream:
    """Merges one run; several messages are joined by a newline."""

    def __init__(self) -> None:
        self._run: dict[str, Any] = {}
        self._parts: dict[str, list[str]] = {}  # by message
        self._roles: dict[str, str] = {}
        self._usage: Any = None
        self._error: Any = None

    def feed(self, name: str, chunk: Chunk) -> None:
        """Take the next event."""
        if self._kind(name, chunk) == "thread.message.delta":
            message = as_text(chunk.get("id"))
            delta = as_dict(chunk.get("delta"))
            self._roles[message] = self._roles.get(message) or as_text(delta.get("role"))
            self._parts.setdefault(message, []).append(_text_of(delta.get("content")))
        else:
            self.feed_tail(name, chunk)

    def feed_tail(self, name: str, chunk: Chunk) -> None:
        """Take the tail: runs, steps and whole messages need no predecessor."""
        kind = self._kind(name, chunk)
        if kind.startswith("thread.message"):
            self._feed_message(kind, chunk)
        elif kind.startswith("thread.run.step"):
            self._usage = self._usage or as_dict(chunk.get("usage")) or None
        elif kind.startswith("thread.run"):
            self._feed_run(chunk)
        elif name == "error" or "error" in chunk:
            self._error = chunk.get("error") or chunk

    @staticmethod
    def _kind(name: str, chunk: Chunk) -> str:
        return name if name.startswith("thread.") else as_text(chunk.get("object"))

    def _feed_message(self, kind: str, chunk: Chunk) -> None:
        message = as_text(chunk.get("id"))
        if role := as_text(chunk.get("role")):
            self._roles[message] = role
        text = _text_of(chunk.get("content"))
        if text and (kind == "thread.message.completed" or not self._parts.get(message)):
            self._parts[message] = [text]

    def _feed_run(self, chunk: Chunk) -> None:
        for name in ("id", "created_at", *_RUN):
            self._run[name] = first(self._run.get(name), chunk.get(name))
        for name in ("status", "model"):
            self._run[name] = chunk.get(name) or self._run.get(name)
        self._usage = as_dict(chunk.get("usage")) or self._usage
        self._error = chunk.get("last_error") or self._error

    def merged(self) -> Merged:
        """Return the run so far."""
        text = "\n".join("".join(parts) for parts in self._parts.values() if any(parts))
        role = next((role for role in self._roles.values() if role), "assistant")
        response: Chunk = {
            "id": self._run.get("id"),
            "object": "thread.run",
            "created_at": self._run.get("created_at"),
            "assistant_id": self._run.get("assistant_id"),
            "thread_id": self._run.get("thread_id"),
            "status": self._run.get("status"),
            "model": self._run.get("model"),
            "choices": [{"index": 0, "message": {"role": role, "content": text}, "finish_reason": ""}],
        }
        if self._usage:
            response["usage"] = self._usage
        if self._error:
            response["error"] = self._error
        return Merged(response, text, bool(self._error))


def _text_of(content: object) -> str:
    texts = []
    for part in as_list(content):
        text = as_dict(part).get("text")
        texts.append(as_text(text) or as_text(as_dict(text).get("value")))
    return "".join(texts)
