"""Event streams put together again into the one object that the provider would have answered without streaming."""

from collections.abc import Callable

from llm_proxy.formats.sse import chunks, whole_events
from llm_proxy.formats.streams.anthropic import MessagesStream
from llm_proxy.formats.streams.assistants import AssistantsStream
from llm_proxy.formats.streams.base import Chunk, Merged, Stream
from llm_proxy.formats.streams.chat import ChatStream
from llm_proxy.formats.streams.completions import CompletionsStream
from llm_proxy.formats.streams.responses import ResponsesStream
from llm_proxy.runtime.short_turns import breathe

__all__ = ["Merged", "merge"]

_ANTHROPIC = ("message_start", "content_block_", "message_delta", "message_stop")


def merge(body: bytes, tail: bytes | None = None) -> Merged | None:
    """Return the merged response of a stream's bytes; None when no family is recognised in it.

    Args:
        tail: The stream's last bytes, where something between `body` and them is missing. Only what ends a response is
            taken from it: usage, reasons, a final object.
    """
    found = list(chunks(body))
    last = list(chunks(whole_events(tail))) if tail else []
    make = _first_family(found + last)
    if make is None:
        return None
    stream = make()
    for name, chunk in found:
        breathe()
        stream.feed(name, chunk)
    for name, chunk in last:
        breathe()
        stream.feed_tail(name, chunk)
    return stream.merged()


def _first_family(found: list[tuple[str, Chunk]]) -> Callable[[], Stream] | None:
    for name, chunk in found:
        breathe()
        if (family := _family(name, chunk)) is not None:
            return family
    return None


def _family(name: str, chunk: Chunk) -> Callable[[], Stream] | None:
    kind, shape = chunk.get("type"), chunk.get("object")
    if name.startswith("thread.") or (isinstance(shape, str) and shape.startswith("thread.")):
        return AssistantsStream
    if isinstance(kind, str):
        if kind.startswith("response."):
            return ResponsesStream
        if kind.startswith(_ANTHROPIC):
            return MessagesStream
    choices = chunk.get("choices")
    if shape == "text_completion" or (isinstance(choices, list) and any(_is_text(choice) for choice in choices)):
        return CompletionsStream
    if shape == "chat.completion.chunk" or isinstance(choices, list) or isinstance(chunk.get("error"), dict):
        return ChatStream
    return None


def _is_text(choice: object) -> bool:
    return isinstance(choice, dict) and "text" in choice and "delta" not in choice
