"""Legacy completions: pieces of text per choice become one `text_completion`."""

from typing import Any

from llm_proxy.formats.streams.base import Chunk, Merged, as_dict, as_index, as_list, as_text, first, merge_lists
from llm_proxy.runtime.short_turns import breathe

_TOP = ("id", "created", "model", "system_fingerprint")


class CompletionsStream:
    """Merges one stream of chunks."""

    def __init__(self) -> None:
        self._top: dict[str, Any] = {}
        self._texts: dict[int, list[str]] = {}
        self._reasons: dict[int, Any] = {}
        self._logprobs: dict[int, dict[str, Any]] = {}
        self._usage: Any = None
        self._error: Any = None

    def feed(self, name: str, chunk: Chunk) -> None:
        """Take the next chunk."""
        self.feed_tail(name, chunk)
        for item in as_list(chunk.get("choices")):
            breathe()
            choice = as_dict(item)
            index = as_index(choice.get("index"))
            self._texts.setdefault(index, []).append(as_text(choice.get("text")))
            merge_lists(self._logprobs.setdefault(index, {}), choice.get("logprobs"))

    def feed_tail(self, name: str, chunk: Chunk) -> None:
        """Usage, reasons and errors."""
        for key in _TOP:
            self._top[key] = first(self._top.get(key), chunk.get(key))
        self._usage = as_dict(chunk.get("usage")) or self._usage
        self._error = chunk.get("error") or self._error
        for item in as_list(chunk.get("choices")):
            breathe()
            choice = as_dict(item)
            index = as_index(choice.get("index"))
            self._reasons[index] = choice.get("finish_reason") or self._reasons.get(index)
            self._texts.setdefault(index, [])

    def merged(self) -> Merged:
        """Return the completion so far."""
        choices = []
        for index in sorted(self._texts):
            breathe()
            choice: Chunk = {"text": "".join(self._texts[index]), "index": index}
            choice |= {"logprobs": self._logprobs.get(index) or None, "finish_reason": self._reasons.get(index)}
            choices.append(choice)
        response: Chunk = {"object": "text_completion", **{k: v for k, v in self._top.items() if v is not None}}
        response["choices"] = choices
        if self._usage:
            response["usage"] = self._usage
        if self._error:
            response["error"] = self._error
        return Merged(response, "".join(choice["text"] for choice in choices), bool(self._error))
