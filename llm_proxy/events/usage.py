"""Model tokens as providers report them in their answers, in whatever spelling (docs/events.md, "Usage")."""

import json
from dataclasses import dataclass
from typing import Any

from llm_proxy.events.contents import decoded, parse_json
from llm_proxy.events.event import Event
from llm_proxy.events.streams import is_event_stream
from llm_proxy.events.streams.sse import chunks, whole_events


@dataclass(frozen=True, slots=True)
class Usage:
    """Counted by the provider. None: not reported."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None

    def to_json(self) -> dict[str, int]:
        """What is known, by name."""
        named = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cached_tokens": self.cached_tokens,
        }
        return {name: count for name, count in named.items() if count is not None}


def usage_of(answer: object) -> Usage | None:
    """The usage in an answer, or in one of its envelopes (`response`, `message`); None when it reports none."""
    if not isinstance(answer, dict):
        return None
    for holder in (answer, answer.get("response"), answer.get("message")):
        if isinstance(holder, dict) and isinstance(holder.get("usage"), dict):
            return _read(holder["usage"])
    return None


def _read(usage: dict[str, Any]) -> Usage | None:
    details = [usage.get("prompt_tokens_details"), usage.get("input_tokens_details")]
    cached = [_count(item.get("cached_tokens")) for item in details if isinstance(item, dict)]
    found = Usage(
        prompt_tokens=_first(_count(usage.get("prompt_tokens")), _count(usage.get("input_tokens"))),
        completion_tokens=_first(_count(usage.get("completion_tokens")), _count(usage.get("output_tokens"))),
        cached_tokens=_first(*cached, _count(usage.get("cache_read_input_tokens"))),
    )
    return found if found.prompt_tokens is not None or found.completion_tokens is not None else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _first(*counts: int | None) -> int | None:
    return next((count for count in counts if count is not None), None)


def wire_of(event: Event) -> bytes:
    """The event's wire form, with usage in place of the end of a body that must not be kept."""
    if event.usage is None and event.usage_source is not None:
        event.usage = usage_of_tail(event)
    return event.to_wire()


def usage_of_tail(event: Event) -> dict[str, int] | None:
    """Usage read from the last 16 KiB of an answer whose body is not kept."""
    if event.usage_source is None:
        return None
    is_whole = event.response_bytes is not None and event.response_bytes <= len(event.usage_source)
    encoding = event.header("Content-Encoding")
    tail = event.usage_source if not encoding else decoded(event.usage_source, encoding) if is_whole else None
    if not tail:
        return None
    if is_event_stream(event.header("Content-Type"), tail):
        return _of_stream(tail if is_whole else whole_events(tail))
    value = parse_json(tail)
    found = usage_of(value[0]) if value is not None else _of_cut_json(tail)
    return found.to_json() if found is not None else None


def _of_stream(tail: bytes) -> dict[str, int] | None:
    """Anthropic spreads its counts over two chunks; the later value of each counts."""
    counts: dict[str, int] = {}
    for _, chunk in chunks(tail):
        if (found := usage_of(chunk)) is not None:
            counts |= found.to_json()
    return counts or None


def _of_cut_json(tail: bytes) -> Usage | None:
    """The last object named `usage` in the end of a JSON text."""
    text = tail.decode("utf-8", "replace")
    place = text.rfind('"usage"')
    brace = text.find("{", place)
    if place < 0 or brace < 0:
        return None
    try:
        value, _ = json.JSONDecoder().raw_decode(text, brace)
    except (ValueError, RecursionError):
        return None
    return _read(value) if isinstance(value, dict) else None
