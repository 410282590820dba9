"""From an answer's bytes to what it used: whole JSON and event streams of every family that tells.

Bodies that were cut in the middle are read from their ends: names stand at the beginning of an object, `usage` at its
end. Nothing here raises, whatever the bytes are.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from llm_proxy.usage.tap import Body

_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_EVENT_END = re.compile(rb"\r?\n\r?\n")
_TOP = re.compile(rb'"(?:choices|output|data|content|steps)"\s*:')
_BACKGROUND = re.compile(rb'"background"\s*:\s*true')
_BIG = 2**53
_FINISHED = frozenset(("completed", "failed", "incomplete", "cancelled", "expired"))
_ONCE = frozenset(("response", "thread.run"))  # objects whose usage is shown by more than one answer
_NEVER = frozenset(("thread.run.step", "batch", "fine_tuning.job"))
_TEXTS = frozenset(
    ("content", "text", "arguments", "refusal", "reasoning_content", "reasoning", "delta", "thinking", "partial_json")
)


@dataclass(slots=True)
class Usage:
    """Model tokens of one exchange. `cached` is part of `prompt`, `reasoning` part of `completion`."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    is_estimated: bool = False

    @property
    def total_tokens(self) -> int:
        """What budgets and limits count."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(slots=True)
class Reading:
    """What an answer says.

    Attributes:
        usage: None where it says nothing.
        model: The model that answered.
        once: Id of an object whose usage other answers show too; it counts once.
        is_final: Whether such an object is finished.
        texts: What was written, where the answer says nothing about usage: for an estimate.
    """

    usage: Usage | None = None
    model: str | None = None
    once: str | None = None
    is_final: bool = True
    texts: list[str] = field(default_factory=list)


def read(body: Body, media_type: str) -> Reading:
    """Read an answer of 2xx."""
    if not body.is_readable:
        return Reading()
    try:
        if media_type.lower().startswith("text/event-stream"):
            return _stream(body)
        return _object(body)
    except (ValueError, TypeError, RecursionError):  # pragma: no cover - junk that got past each step's own care
        return Reading()


def usage_of(counts: Mapping[str, Any]) -> Usage | None:
    """A provider's `usage` object in our terms; None when it holds no token counts (seconds of audio, say)."""
    prompt, completion = _first(counts, "prompt_tokens", "input_tokens"), _first(
        counts, "completion_tokens", "output_tokens"
    )  # fmt: skip
    if prompt is None and completion is None:
        return None
    read_from_cache, written = _count(counts.get("cache_read_input_tokens")), _count(
        counts.get("cache_creation_input_tokens")
    )  # fmt: skip
    prompt = (prompt or 0) + (read_from_cache or 0) + (written or 0)  # Anthropic counts them beside the input
    cached = _detail(counts, ("prompt_tokens_details", "input_tokens_details"), "cached_tokens") or read_from_cache or 0
    reasoning = _detail(counts, ("completion_tokens_details", "output_tokens_details"), "reasoning_tokens") or 0
    completion = completion or 0
    return Usage(prompt, completion, min(cached, prompt), min(reasoning, completion))


def texts_of(value: Any) -> Iterator[str]:
    """Everything written in an answer, a chunk or a request's messages; addresses, ids and roles left out."""
    if isinstance(value, dict):
        for name, item in value.items():
            if isinstance(item, str):
                if name in _TEXTS:
                    yield item
            elif isinstance(item, dict | list):
                yield from texts_of(item)
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, str):
                yield item
            elif isinstance(item, dict | list):
                yield from texts_of(item)


def prompt_texts(asked: Mapping[str, Any]) -> Iterator[str]:
    """What a request gives the model to read."""
    for name in ("messages", "input", "prompt", "instructions", "system"):
        value = asked.get(name)
        if isinstance(value, str):
            yield value
        else:
            yield from texts_of(value)


# -- one JSON object --------------------------------------------------------------------------------------------------


def _object(body: Body) -> Reading:
    if not body.is_whole:
        return _cut_object(body)
    try:
        found = orjson.loads(body.head)
    except orjson.JSONDecodeError:  # broken off
        texts = [body.head.decode("utf-8", "replace")] if body.head else []
        return Reading(model=_member(body.head[:4096], "model"), texts=texts)
    return _of(found) if isinstance(found, dict) else Reading()


def _of(found: Mapping[str, Any]) -> Reading:
    kind = found.get("object")
    if kind in _NEVER:
        return Reading()
    reading = Reading(model=_text(found.get("model")))
    counts = found.get("usage")
    if isinstance(counts, dict):
        reading.usage = usage_of(counts)
    if kind in _ONCE and (kind == "thread.run" or found.get("background") is True):
        reading.once, reading.is_final = _text(found.get("id")), found.get("status") in _FINISHED
    if reading.usage is None:
        reading.texts = list(texts_of(found))
    return reading


def _cut_object(body: Body) -> Reading:
    """By its ends: what stands before the first long member, and the last `usage`."""
    top = _TOP.search(body.head)
    start = body.head[: top.start()] if top else body.head[:4096]
    names = {name: value for name in ("model", "object", "id", "status") if (value := _member(start, name))}
    if names.get("object") in _NEVER and "model" not in names and b'"embedding"' not in body.head[:4096]:
        return Reading()
    reading = Reading(_last_usage(body.tail), names.get("model") or _member(body.tail, "model", is_last=True))
    is_background = _BACKGROUND.search(start) is not None or _BACKGROUND.search(body.tail) is not None
    if names.get("object") in _ONCE and (is_background or names["object"] == "thread.run"):
        reading.once, reading.is_final = names.get("id"), names.get("status") in _FINISHED
    if reading.usage is None:
        reading.texts = [body.head.decode("utf-8", "replace"), body.tail.decode("utf-8", "replace")]
    return reading


def _last_usage(data: bytes) -> Usage | None:
    """The last object named `usage` that can be read."""
    text = data.decode("utf-8", "replace")
    place = text.rfind('"usage"')
    while place >= 0:
        brace = text.find("{", place)
        if 0 <= brace <= place + 16:
            try:
                counts, _ = json.JSONDecoder().raw_decode(text, brace)
            except (ValueError, RecursionError):
                counts = None
            if isinstance(counts, dict) and (found := usage_of(counts)) is not None:
                return found
        place = text.rfind('"usage"', 0, place)
    return None


def _member(data: bytes, name: str, *, is_last: bool = False) -> str | None:
    found = re.findall(rb'"' + name.encode() + rb'"\s*:\s*"([^"\\]{1,255})"', data)
    return found[-1 if is_last else 0].decode("utf-8", "replace") if found else None


# -- event streams ----------------------------------------------------------------------------------------------------


def _stream(body: Body) -> Reading:
    events = _events(body.head, is_end=body.is_whole)
    if not body.is_whole:
        events += _events(body.tail, is_start=False)
    reading, counts = Reading(), dict[str, Any]()
    first = next((value for value in map(_json, events) if value is not None), None)
    if first is not None:
        reading.model = _model(first)
    for event in events:
        if _USAGE.search(event) and (value := _json(event)) is not None:
            _take(value, reading, counts)
    if counts:
        reading.usage = usage_of(counts)
    elif not body.is_whole and b"thread.run.step" not in body.tail:
        reading.usage = _last_usage(body.tail)  # one event longer than what is kept of the end
    if reading.usage is None:
        for event in events:
            if (value := _json(event)) is not None and _is_delta(value):
                _add_texts(value, reading.texts)
    return reading


def _add_texts(value: Mapping[str, Any], texts: list[str]) -> None:
    """What a chunk adds; the usual one, a choice whose delta is some content, without a search."""
    choices = value.get("choices")
    if not isinstance(choices, list):
        texts += texts_of(value)
        return
    for choice in choices:
        delta = choice.get("delta") if isinstance(choice, dict) else None
        if isinstance(delta, dict) and len(delta) == 1 and isinstance(content := delta.get("content"), str):
            texts.append(content)
        else:
            texts += texts_of(choice)


def _take(value: Mapping[str, Any], reading: Reading, counts: dict[str, Any]) -> None:
    """Counts of one event; later ones replace earlier ones, and Anthropic's two halves complete each other."""
    for holder in (value, value.get("response"), value.get("message"), value.get("data")):
        if not isinstance(holder, dict) or not isinstance(holder.get("usage"), dict):
            continue
        kind = holder.get("object")
        if kind in _NEVER:
            return
        reading.model = _text(holder.get("model")) or reading.model
        if kind in _ONCE and (kind == "thread.run" or holder.get("background") is True):
            reading.once, reading.is_final = _text(holder.get("id")), holder.get("status") in _FINISHED
        counts |= {name: count for name, count in holder["usage"].items() if count is not None}


def _events(data: bytes, *, is_start: bool = True, is_end: bool = True) -> list[bytes]:
    parts = _EVENT_END.split(data) if b"\r" in data else data.split(b"\n\n")
    if not is_start:
        parts = parts[1:]
    if not is_end:
        parts = parts[:-1]
    return [part for part in parts if b"data:" in part]


def _json(event: bytes) -> dict[str, Any] | None:
    """The object of an event's data lines."""
    if event.startswith(b"data:") and b"\n" not in event:  # nearly all of them
        data = event[5:]
    else:
        data = b"\n".join(line[5:] for line in event.splitlines() if line.startswith(b"data:"))
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None  # [DONE], or cut
    return value if isinstance(value, dict) else None


def _is_delta(value: Mapping[str, Any]) -> bool:
    """Whether an event adds text; those that say it all again at the end do not."""
    kind = value.get("type") or value.get("object")
    if "choices" in value:
        return True
    return isinstance(kind, str) and kind.endswith(("delta", "content_block_delta"))


def _model(value: Mapping[str, Any]) -> str | None:
    for holder in (value, value.get("response"), value.get("message")):
        if isinstance(holder, dict) and (model := _text(holder.get("model"))):
            return model
    return None


# -- values -----------------------------------------------------------------------------------------------------------


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _BIG else None


def _first(counts: Mapping[str, Any], *names: str) -> int | None:
    return next((count for name in names if (count := _count(counts.get(name))) is not None), None)


def _detail(counts: Mapping[str, Any], holders: tuple[str, ...], name: str) -> int | None:
    for holder in holders:
        details = counts.get(holder)
        if isinstance(details, dict) and (count := _count(details.get(name))) is not None:
            return count
    return None
