"""Chat completions: `chat.completion.chunk` objects become one `chat.completion`."""

from collections.abc import Callable
from typing import Any, TypeVar

from llm_proxy.formats.streams.base import Chunk, Merged, as_dict, as_index, as_list, as_text, first, merge_lists
from llm_proxy.runtime.short_turns import breathe

_TOP = ("id", "created", "model", "system_fingerprint", "service_tier")
_REASONING = ("reasoning_content", "reasoning")
_SOUND = ("transcript", "data")  # of audio, in pieces

_T = TypeVar("_T")


class _ToolCall:
    """One call, whose arguments come in pieces."""

    def __init__(self) -> None:
        self.id: Any = None
        self.type: Any = None
        self.name = ""
        self.arguments: list[str] = []

    def feed(self, piece: Chunk) -> None:
        """Add a piece of the call."""
        function = as_dict(piece.get("function")) or as_dict(piece.get("custom"))
        self.id, self.type = first(self.id, piece.get("id")), first(self.type, piece.get("type"))
        self.name = self.name or as_text(function.get("name"))
        self.arguments.append(as_text(function.get("arguments")) or as_text(function.get("input")))

    def merged(self) -> Chunk:
        """Return the call as a response that is no stream has it."""
        arguments = "".join(self.arguments)
        if self.type == "custom":
            return {"id": self.id, "type": "custom", "custom": {"name": self.name, "input": arguments}}
        function = {"name": self.name, "arguments": arguments}
        return {"id": self.id, "type": first(self.type, "function"), "function": function}


def _is_another(known: _ToolCall, name: str, *, has_index: bool) -> bool:
    """Return whether a piece without an id begins a call of its name, and does not go on with the known one."""
    if not (name and known.name):
        return False
    return not has_index or (not known.id and known.name != name)


class _Choice:
    """One of the responses that were asked for with `n`."""

    def __init__(self) -> None:
        self.finish_reason: Any = None
        self.texts: dict[str, list[str]] = {}
        self.tool_calls: dict[int, _ToolCall] = {}
        self._last_call = self._next_call = 0
        self._places: dict[str, int] = {}  # a call's id → its index
        self._moved: dict[int, int] = {}  # an index that several calls share → where the latest of them stands
        self.function_call: _ToolCall | None = None
        self._audio: dict[str, Any] = {}
        self._sound: dict[str, list[str]] = {}
        self.logprobs: dict[str, Any] = {}
        self.annotations: list[Any] = []

    def feed(self, choice: Chunk) -> None:
        """Add the delta of a chunk."""
        self.finish(choice)
        merge_lists(self.logprobs, choice.get("logprobs"))
        delta = as_dict(choice.get("delta")) or as_dict(choice.get("message"))
        for name in ("content", "refusal", *_REASONING):
            if text := as_text(delta.get(name)):
                self.texts.setdefault(name, []).append(text)
        for place, piece in enumerate(as_list(delta.get("tool_calls"))):
            breathe()
            self._feed_call(as_dict(piece), place)
        if function := as_dict(delta.get("function_call")):
            self.function_call = self.function_call or _ToolCall()
            self.function_call.feed({"function": function})
        self.annotations += as_list(delta.get("annotations"))
        self._feed_audio(as_dict(delta.get("audio")))

    def _feed_call(self, piece: Chunk, place: int) -> None:
        index = self._last_call = self._index_of(piece, place)
        self._next_call = max(self._next_call, index + 1)
        call = self.tool_calls.setdefault(index, _ToolCall())
        call.feed(piece)
        if isinstance(call.id, str):
            self._places.setdefault(call.id, index)

    def _index_of(self, piece: Chunk, place: int) -> int:
        """Return the index of the call that a piece belongs to. A new id with a name begins a new one.

        Gemini's compatible API gives no index, others give 0 to every call; without ids another name begins one.
        """
        call_id = as_text(piece.get("id"))
        name = as_text((as_dict(piece.get("function")) or as_dict(piece.get("custom"))).get("name"))
        has_index = isinstance(piece.get("index"), int)
        index = as_index(piece.get("index")) if has_index else max(place, self._last_call)
        if not call_id and has_index:
            index = self._moved.get(index, index)
        known = self.tool_calls.get(index)
        if call_id and known is not None and known.id not in (None, "", call_id):
            same = self._places.get(call_id)
            if same is not None:
                index = same
            elif name or not has_index:
                index = self._next_call
        elif known is not None and not call_id and _is_another(known, name, has_index=has_index):
            index = self._next_call
        if has_index and index != piece["index"]:
            self._moved[piece["index"]] = index
        return index

    def finish(self, choice: Chunk) -> None:
        """Take over why the choice ended, where the chunk says it."""
        self.finish_reason = choice.get("finish_reason") or self.finish_reason

    def _feed_audio(self, audio: Chunk) -> None:
        for name, value in audio.items():
            is_sound = name in self._sound or self._audio.get(name) is None
            if is_sound and name in _SOUND and isinstance(value, str):
                self._audio.setdefault(name, "")
                self._sound.setdefault(name, []).append(value)
            else:
                self._audio[name] = first(self._audio.get(name), value)

    @property
    def audio(self) -> Chunk:
        """The audio so far."""
        return self._audio | {name: "".join(pieces) for name, pieces in self._sound.items()}

    def text(self) -> str:
        """Return what was generated, calls and spoken words included, for an estimate."""
        calls = [*self.tool_calls.values(), *([self.function_call] if self.function_call else [])]
        spoken = ["".join(self.texts.get(name, ())) for name in ("content", "refusal")]
        return "".join([*spoken, *("".join(call.arguments) for call in calls), as_text(self.audio.get("transcript"))])

    def merged(self, index: int) -> Chunk:
        """Return the choice as a response that is no stream has it."""
        content = "".join(self.texts.get("content", ()))
        has_other = bool(self.tool_calls or self.function_call or self._audio or "refusal" in self.texts)
        message: Chunk = {"role": "assistant", "content": None if not content and has_other else content}
        for name in ("refusal", *_REASONING):
            if name in self.texts:
                message[name] = "".join(self.texts[name])
        if self.tool_calls:
            message["tool_calls"] = [_breathed(self.tool_calls[place].merged) for place in sorted(self.tool_calls)]
        if self.function_call is not None:
            message["function_call"] = self.function_call.merged()["function"]
        if self._audio:
            message["audio"] = self.audio
        if self.annotations:
            message["annotations"] = self.annotations
        choice: Chunk = {"index": index, "message": message, "finish_reason": self.finish_reason}
        if self.logprobs:
            choice["logprobs"] = self.logprobs
        return choice


def _breathed(make: Callable[..., _T], *arguments: Any) -> _T:
    breathe()
    return make(*arguments)


class ChatStream:
    """Merges one stream of chunks."""

    def __init__(self) -> None:
        self._top: dict[str, Any] = {}
        self._choices: dict[int, _Choice] = {}
        self._usage: Any = None
        self._error: Any = None

    def feed(self, name: str, chunk: Chunk) -> None:
        """Take the next chunk."""
        self._feed_frame(chunk)
        for item in as_list(chunk.get("choices")):
            breathe()
            choice = as_dict(item)
            self._choice(choice).feed(choice)

    def feed_tail(self, name: str, chunk: Chunk) -> None:
        """Usage, reasons and errors; text after a gap would read as if nothing were missing."""
        self._feed_frame(chunk)
        for item in as_list(chunk.get("choices")):
            breathe()
            choice = as_dict(item)
            self._choice(choice).finish(choice)

    def _choice(self, choice: Chunk) -> _Choice:
        index = as_index(choice.get("index"))
        known = self._choices.get(index)
        if known is None:
            known = self._choices[index] = _Choice()
        return known

    def _feed_frame(self, chunk: Chunk) -> None:
        for name in _TOP:
            self._top[name] = first(self._top.get(name), chunk.get(name))
        self._usage = as_dict(chunk.get("usage")) or self._usage
        self._error = chunk.get("error") or self._error

    def merged(self) -> Merged:
        """Return the completion so far."""
        top = {name: value for name, value in self._top.items() if value is not None}
        response: Chunk = {"id": top.pop("id", None), "object": "chat.completion", "created": top.pop("created", None)}
        response |= {"model": top.pop("model", None), **top}
        choices = sorted(self._choices.items())
        response["choices"] = [_breathed(choice.merged, index) for index, choice in choices]
        if self._usage:
            response["usage"] = self._usage
        if self._error:
            response["error"] = self._error
        text = "".join([_breathed(choice.text) for _, choice in choices])
        return Merged({name: value for name, value in response.items() if value is not None}, text, bool(self._error))
