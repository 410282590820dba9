"""Model tokens where the provider reported none: an estimate, without any network."""

from typing import Any

from llm_proxy.dispatcher.payload import to_json
from llm_proxy.events.streams.base import as_dict, as_list, as_text
from llm_proxy.events.usage import Usage
from llm_proxy.usage.estimate import Count, by_characters, encoding_name, tiktoken_count

_MOST_CHARACTERS = 400_000  # beyond it a tokenizer's time is not worth its exactness


class Estimator:
    """Counts tokens with tiktoken where that is installed and its files are in the folder, else by characters."""

    def __init__(self, folder: str | None) -> None:
        self._folder = folder
        self._counts: dict[str, Count] = {}

    def estimate(self, request: dict[str, Any], text: str, model: str) -> Usage:
        """The usage of a request whose answer's text is known."""
        count = self._count_for(model)
        return Usage(prompt_tokens=_safely(count, prompt_of(request)), completion_tokens=_safely(count, text))

    def _count_for(self, model: str) -> Count:
        name = encoding_name(model)
        if name not in self._counts:
            self._counts[name] = self._counter(name)
        return self._counts[name]

    def _counter(self, name: str) -> Count:
        counter = tiktoken_count(name, self._folder) if self._folder is not None else None
        return counter or by_characters


def _safely(count: Count, text: str) -> int:
    if not text:
        return 0
    if len(text) > _MOST_CHARACTERS:
        return by_characters(text)
    try:
        return count(text)
    except Exception:  # a tokenizer's panic on odd text
        return by_characters(text)


def prompt_of(request: dict[str, Any]) -> str:
    """What the model was given to read: messages as compact JSON, then instructions and the like."""
    parts = [to_json(request["messages"]).decode()] if request.get("messages") else []
    for name in ("instructions", "prompt", "input", "system"):
        value = request.get(name)
        if value:
            parts.append(value if isinstance(value, str) else to_json(value).decode())
    return "".join(parts)


def text_of(answer: object) -> str:
    """All that the assistant wrote in a whole answer, tool arguments included."""
    found = as_dict(answer)
    texts: list[str] = []
    for entry in as_list(found.get("choices")):
        choice = as_dict(entry)
        message = as_dict(choice.get("message"))
        texts += [as_text(choice.get("text")), *_contents(message.get("content")), as_text(message.get("refusal"))]
        for call in [*as_list(message.get("tool_calls")), {"function": message.get("function_call")}]:
            texts.append(as_text(as_dict(as_dict(call).get("function")).get("arguments")))
    for entry in as_list(found.get("output")):
        item = as_dict(entry)
        texts += [*_contents(item.get("content")), as_text(item.get("arguments"))]
    texts += _contents(found.get("content"))
    return "".join(texts)


def _contents(content: object) -> list[str]:
    if isinstance(content, str):
        return [content]
    texts = []
    for entry in as_list(content):
        part = as_dict(entry)
        texts += [as_text(part.get("text")), as_text(part.get("refusal"))]
        if part.get("type") == "tool_use":
            texts.append(to_json(part.get("input")).decode())
    return texts
