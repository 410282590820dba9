"""From a response's bytes to what it used: whole JSON and event streams of every API family that tells.

Bodies that were cut in the middle are read from their ends: names stand at the beginning of an object, usage at its
end. Nothing here raises, whatever the bytes are. The type that the response claims is a hint; its content decides.
"""

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from llm_proxy.formats.body import Body
from llm_proxy.formats.lenient_json import loads, loads_object
from llm_proxy.formats.sse import blocks, is_event_stream, object_of
from llm_proxy.formats.texts import texts_of, texts_of_cut_json
from llm_proxy.formats.usage import Usage, has_absurd_counts, usage_of
from llm_proxy.runtime.short_turns import breathe

_USAGE = re.compile(rb'"usage(?:Metadata)?"\s{0,8}:\s{0,8}\{')
_USAGE_TEXT = re.compile(r'"usage(?:Metadata)?"\s{0,8}:\s{0,8}\{')
_MAX_TRIES = 100  # names in texts have escaped quotes, so no honest response has as many
_TOP = re.compile(rb'"(?:choices|output|data|content|steps|candidates)"\s{0,8}:')
_BACKGROUND = re.compile(rb'"background"\s{0,8}:\s{0,8}true')
_BINARY = re.compile(r"\s*(?:(?:audio|image|video|font)/|application/(?:octet-stream|pdf|zip|gzip))", re.IGNORECASE)
_GZIP = b"\x1f\x8b"  # compressed, and no field says so
_USAGE_NAMES = ("usage", "usageMetadata")
_BARE_NAMES = ("prompt_eval_count", "eval_count")  # of counts that stand in the object itself (Ollama)
_BARE = {name: re.compile(rb'"%b"\s{0,8}:\s{0,8}([0-9]{1,10})[,}\s]' % name.encode()) for name in _BARE_NAMES}
_HOLDERS = ("response", "message", "data", "x_groq", "delta")  # members that may hold the usage in the object's place
_MODEL_NAMES = ("model", "modelVersion")  # Gemini's is the second
_FINISHED = frozenset(("completed", "failed", "incomplete", "cancelled", "expired"))
_ONCE = frozenset(("response", "thread.run"))  # objects whose usage is shown by more than one response
_NEVER = frozenset(("thread.run.step", "batch", "fine_tuning.job"))
_NO_TEXT_DELTAS = ("audio.delta", "image.delta")


@dataclass(slots=True)
class Reading:
    """What a response says.

    Attributes:
        usage: None where it says nothing.
        model: The model that answered.
        once: Id of an object whose usage other responses show too; it counts once.
        is_final: Whether such an object is finished.
        texts: What was written, where the response says nothing about usage: for an estimate.
        scale: By how much the whole's texts are longer than those that are kept.
        has_absurd_usage: It reported counts that no exchange can have; they were not believed.
        is_opaque: It is neither text nor, by its type, media.
    """

    usage: Usage | None = None
    model: str | None = None
    once: str | None = None
    is_final: bool = True
    texts: list[str] = field(default_factory=list)
    scale: float = 1.0
    has_absurd_usage: bool = False
    is_opaque: bool = False


def read(body: Body, media_type: str = "") -> Reading:
    """Read a successful response."""
    if not body.is_readable:
        return Reading()
    try:
        if body.head[:1] != b"{" and is_event_stream(media_type, body.head):
            return _stream(body)
        return _json(body, media_type)
    except (ValueError, TypeError, RecursionError):  # pragma: no cover - junk that got past each step's own care
        return Reading()


def read_value(value: object) -> Reading:
    """Read a response that is parsed already: an object, or an array of a stream's objects."""
    if isinstance(value, dict):
        return _object(value)
    return _array(value) if isinstance(value, list) else Reading()


# -- JSON --------------------------------------------------------------------------------------------------------------


def _json(body: Body, media_type: str) -> Reading:
    start = body.head[:64].lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if body.head and start not in (b"{", b"["):
        return _text_only(body, media_type)
    if not body.is_whole:
        return _cut_json(body)
    try:
        return read_value(loads(body.head))
    except ValueError:  # broken off, several values one behind the other, or nested too deeply
        return _lines(body) or _cut_json(body)


def _text_only(body: Body, media_type: str) -> Reading:
    """Return plain text as what was written; media are none."""
    if b"\0" in body.head[:1024] or body.head[:2] == _GZIP:
        return Reading(is_opaque=_BINARY.match(media_type) is None)
    if _BINARY.match(media_type):
        return Reading()
    return Reading(texts=[(body.head + body.tail).decode("utf-8", "replace")], scale=body.scale)


def _object(found: Mapping[str, Any]) -> Reading:
    reading, counts = Reading(), dict[str, Any]()
    if found.get("object") in _NEVER:
        return reading
    if isinstance(usual := found.get("usage"), dict):
        reading.usage = usage_of(usual)
    if reading.usage is None:
        _take(found, reading, counts)
        _conclude(reading, counts)
    if found.get("object") in _ONCE:
        _note_once(found, reading)
    reading.model = reading.model or _model(found)
    if reading.usage is None:
        reading.texts = texts_of(found)
    return reading


def _array(found: list[Any]) -> Reading:
    """Read a stream that came as one array, as Gemini's does without `alt=sse`."""
    reading, counts = Reading(), dict[str, Any]()
    chunks = [chunk for chunk in found if isinstance(chunk, dict)]
    for chunk in chunks:
        breathe()
        _take(chunk, reading, counts)
        reading.model = reading.model or _model(chunk)
    _conclude(reading, counts)
    if reading.usage is None:
        for chunk in chunks:
            breathe()
            _add_texts(chunk, reading.texts)
    return reading


def _lines(body: Body) -> Reading | None:
    """Read one JSON object a line; None where the lines are none."""
    lines = [line for line in body.head.splitlines() if line.strip()]
    if len(lines) < 2 or loads_object(lines[0]) is None:
        return None
    return _array(list(map(_breathed, lines)))


def _breathed(line: bytes) -> dict[str, Any] | None:
    breathe()
    return loads_object(line)


def _cut_json(body: Body) -> Reading:
    """Read by its ends: what stands before the first long member, and the last usage."""
    top = _TOP.search(body.head)
    start = body.head[: top.start()] if top else body.head[:4096]
    end = body.tail or body.head
    names = {name: value for name in ("object", "id", "status") if (value := _member(start, name))}
    model = _member_model(start) or _member_model(end, is_last=True)
    if names.get("object") in _NEVER and model is None and b'"embedding"' not in body.head[:4096]:
        return Reading()
    reading = Reading(model=model)
    reading.usage = (
        _last_usage(end, reading) or (_last_usage(start, reading) if body.tail else None) or _bare_usage(end)
    )
    is_background = _BACKGROUND.search(start) is not None or _BACKGROUND.search(end) is not None
    if names.get("object") in _ONCE and (is_background or names["object"] == "thread.run"):
        reading.once, reading.is_final = names.get("id"), names.get("status") in _FINISHED
    if reading.usage is None:
        reading.texts, is_text = texts_of_cut_json(body.head, body.tail)
        reading.scale = body.scale if is_text else 1.0
    return reading


def _last_usage(data: bytes, reading: Reading) -> Usage | None:
    """Return the last usage that can be read."""
    text = data.decode("utf-8", "replace")
    place = text.rfind('"usage')
    for _ in range(_MAX_TRIES):
        breathe()
        if place < 0:
            break
        if (found := _USAGE_TEXT.match(text, place)) is not None:
            counts = _value_at(text, found.end() - 1)
            if isinstance(counts, dict):
                if (usage := usage_of(counts)) is not None:
                    return usage
                reading.has_absurd_usage |= has_absurd_counts(counts)
        place = text.rfind('"usage', 0, place)
    return None


def _bare_usage(data: bytes) -> Usage | None:
    """Return the last counts that stand in the object itself."""
    counts = {name: int(found[-1]) for name, pattern in _BARE.items() if (found := pattern.findall(data))}
    return usage_of(counts) if counts else None


def _value_at(text: str, place: int) -> Any:
    try:
        return json.JSONDecoder().raw_decode(text, place)[0]
    except (ValueError, RecursionError):
        return None


def _member_model(data: bytes, *, is_last: bool = False) -> str | None:
    return next((found for name in _MODEL_NAMES if (found := _member(data, name, is_last=is_last))), None)


def _member(data: bytes, name: str, *, is_last: bool = False) -> str | None:
    found = re.findall(rb'"' + name.encode() + rb'"\s{0,8}:\s{0,8}"([^"\\]{1,255})"', data)
    return found[-1 if is_last else 0].decode("utf-8", "replace") if found else None


# -- event streams -----------------------------------------------------------------------------------------------------


def _stream(body: Body) -> Reading:
    events = blocks(body.head, is_end=body.is_whole)
    if not body.is_whole:
        events += blocks(body.tail, is_start=False)
    reading, counts = Reading(), dict[str, Any]()
    first = next((value for value in map(object_of, events) if value is not None), None)
    if first is not None:
        reading.model = _model(first)
    for event in events:
        breathe()
        if _USAGE.search(event) and (value := object_of(event)) is not None:
            _take(value, reading, counts)
            _note_holders(value, reading)
    _conclude(reading, counts)
    if not counts and not body.is_whole and b"thread.run.step" not in body.tail:
        reading.usage = _last_usage(body.tail, reading)  # one event longer than what is kept of the end
    if reading.usage is None:
        for event in events:
            breathe()
            if (value := object_of(event)) is not None and _is_delta(value):
                _add_texts(value, reading.texts)
        reading.scale = body.scale if reading.texts else 1.0
    return reading


def _add_texts(value: Mapping[str, Any], texts: list[str]) -> None:
    """Add what a chunk says; the usual one, a choice whose delta is some content, without a search."""
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
    """Take the counts of one object.

    Later ones replace earlier ones; Anthropic's two halves complete each other; zeros take nothing back.
    """
    for holder in _places(value):
        for name in _USAGE_NAMES:
            if not isinstance(found := holder.get(name), dict):
                continue
            if holder.get("object") in _NEVER:
                return
            reading.model = _model_of(holder) or _model_of(value) or reading.model
            counts |= {key: count for key, count in found.items() if count is not None and (count or key not in counts)}
    if _BARE_NAMES[-1] in value:
        counts |= {name: value[name] for name in _BARE_NAMES if name in value}


def _places(value: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield where an object's usage may be: itself, a member, or the last of its choices that tells (Moonshot)."""
    yield value
    for name in _HOLDERS:
        if isinstance(holder := value.get(name), dict):
            yield holder
    choices = value.get("choices")
    if isinstance(choices, list):
        told = (choice for choice in reversed(choices) if isinstance(choice, dict) and choice.get("usage"))
        yield from itertools.islice(told, 1)


def _note_holders(value: Mapping[str, Any], reading: Reading) -> None:
    for holder in (value, value.get("response"), value.get("data")):
        if isinstance(holder, dict):
            _note_once(holder, reading)


def _note_once(holder: Mapping[str, Any], reading: Reading) -> None:
    kind = holder.get("object")
    if kind in _ONCE and (kind == "thread.run" or holder.get("background") is True):
        reading.once, reading.is_final = _text(holder.get("id")), holder.get("status") in _FINISHED


def _conclude(reading: Reading, counts: Mapping[str, Any]) -> None:
    if counts:
        reading.usage = usage_of(counts)
        reading.has_absurd_usage = reading.usage is None and has_absurd_counts(counts)


def _is_delta(value: Mapping[str, Any]) -> bool:
    """Return whether an event adds text; those that say it all again at the end do not, and sound is none."""
    kind = value.get("type") or value.get("object")
    if "choices" in value or "candidates" in value:
        return True
    return isinstance(kind, str) and kind.endswith("delta") and not kind.endswith(_NO_TEXT_DELTAS)


def _model(value: Mapping[str, Any]) -> str | None:
    for holder in (value, value.get("response"), value.get("message")):
        if isinstance(holder, dict) and (model := _model_of(holder)):
            return model
    return None


def _model_of(holder: Mapping[str, Any]) -> str | None:
    for name in _MODEL_NAMES:
        if model := _text(holder.get(name)):
            return model
    return None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
