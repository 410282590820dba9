"""OpenAI's Responses and Realtime over WebSocket: which messages begin, carry and end a turn.

A client's message is read to its last byte before it is forwarded, because any member of it may be the one that names
its type. A provider's message is believed.
"""

import re
from dataclasses import dataclass
from typing import Any, Final

import orjson

from llm_proxy.errors import InvalidJson, LlmProxyError
from llm_proxy.formats.json_members import JsonMembers, Member
from llm_proxy.formats.names import fold
from llm_proxy.formats.request_body import SLICE_BYTES
from llm_proxy.runtime.short_turns import in_short_turns

CREATE: Final = "response.create"
CREATED: Final = "response.created"
ERROR: Final = "error"
TRANSCRIBED: Final = "conversation.item.input_audio_transcription.completed"  # with a usage of its own
_SESSION: Final = ("session.update", "transcription_session.update")
_ENDS: Final = frozenset(("response.completed", "response.incomplete", "response.failed", "response.done"))
_MAY_MATTER: Final = re.compile(rb"response\.create|session|\\")  # a backslash may spell either in another way
_TYPE: Final = re.compile(rb'\s*\{\s*(?:"event_id"\s*:\s*"[^"\\]*"\s*,\s*)?"type"\s*:\s*"([^"\\]{1,128})"')
_BUSY: Final = "conversation_already_has_active_response"
_BLANKS: Final = b" \t\r\n"
_EMPTY: Final = b"{}"
_SHORT_BYTES: Final = 65536  # what is longer is read in turns
_OUTLINED: Final = ("response", "session")  # objects that may be long, and some members of which tell something
_TELLING: Final = frozenset(
    ("type", "id", "response_id", "status", "error", "stream_id", "event_id", "model", *_OUTLINED)
) | {"audio", "input_audio_transcription"}


@dataclass(frozen=True, slots=True)
class ClientMessage:
    """A message to the provider.

    Attributes:
        is_turn: Whether it asks for a response.
        parameters: The JSON object that parameter rules are for; None where they are for none.
        stream_id, event_id: What a response or an error will name.
        model: That it names for its response.
    """

    is_turn: bool = False
    parameters: bytes | None = None
    stream_id: str | None = None
    event_id: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class ServerMessage:
    """A message from the provider; `kind` is its type, empty where it is of no turn.

    Attributes:
        status: Of an error: the status that HTTP would have had.
        is_busy: Whether an error says that another response is under way.
        model, transcriber: Named by a session: of its responses, of its transcriptions.
    """

    kind: str = ""
    response_id: str | None = None
    stream_id: str | None = None
    event_id: str | None = None
    status: int = 500
    is_busy: bool = False
    model: str | None = None
    transcriber: str | None = None

    @property
    def is_end(self) -> bool:
        """Whether a response ends with it."""
        return self.kind in _ENDS


class Unreadable(Exception):
    """The message is no JSON object: what it begins cannot be known."""


class OpenAI:
    """The dialect on one path.

    Attributes:
        is_realtime: Whether the provider may begin turns by itself, and parameters stand one level deeper.
    """

    def __init__(self, path: str) -> None:
        self.is_realtime = path.rstrip("/").endswith("/realtime")

    def client(self, message: bytes) -> ClientMessage:
        """Read a client's message. Raises Unreadable, and InvalidJson where two readers could differ."""
        if _MAY_MATTER.search(message) is None:
            return _NOTHING if _looks_like_object(message) else _unreadable()
        found = _members(message)
        kind = _text_in(found, "type")
        is_turn = kind == CREATE
        if not is_turn and kind not in _SESSION:
            return _NOTHING
        inner, parameters = found, message
        if self.is_realtime:
            parameters = _object_in(found, "response" if is_turn else "session")
            inner = _members(parameters)
        about = [_text_in(*place) for place in ((found, "stream_id"), (found, "event_id"), (inner, "model"))]
        return ClientMessage(is_turn, parameters if parameters != _EMPTY else None, *about)

    def server(self, message: bytes, *, is_alone: bool) -> ServerMessage:
        """Read a provider's message. Raises Unreadable.

        Args:
            is_alone: At most one turn runs, so that a delta need not say whose it is.
        """
        sniffed = _TYPE.match(message)
        kind = b"" if sniffed is None else sniffed[1]
        if is_alone and kind.endswith(b".delta"):
            return ServerMessage(kind.decode("utf-8", "replace"))
        return _server_message(_loaded(message) if len(message) <= _SHORT_BYTES else _outline(message))

    def error(self, error: LlmProxyError, asked: ClientMessage, event_id: str) -> bytes:
        """Return the message that tells a client that its message was refused, in the API's own form."""
        about: dict[str, Any] = {"type": error.type, "code": error.code, "message": error.message, "param": error.param}
        if error.description:
            about["message"] = f"{error.message}: {error.description}"
        told: dict[str, Any] = {"type": ERROR, "status": error.status, "error": about}
        if self.is_realtime:
            told = {"type": ERROR, "event_id": event_id, "error": about | {"event_id": asked.event_id}}
        if asked.stream_id is not None:
            told["stream_id"] = asked.stream_id
        return orjson.dumps(told)


def with_model(message: bytes, model: str | None) -> bytes:
    """Return a message, a JSON object, that names a model as its last member."""
    if model is None:
        return message
    members = message[: message.rindex(b"}")].rstrip(_BLANKS)
    comma = b"" if members.endswith(b"{") else b","
    return b"".join(
        (members, comma, b'"model":', orjson.dumps(model), b"}")
    )  # a long one is copied as seldom as it can be


_NOTHING = ClientMessage()


def _unreadable() -> ClientMessage:
    raise Unreadable


def _looks_like_object(message: bytes) -> bool:
    return message.lstrip(_BLANKS)[:1] == b"{" and message.rstrip(_BLANKS)[-1:] == b"}"


class _Twice(Exception):
    """A member stands in an object twice."""


def _members(message: bytes) -> dict[str, Member]:
    """Return the members of a JSON object that tell what it is, by their names without case; read in short turns.

    Raises Unreadable where it is none, and InvalidJson where a member stands there twice.
    """
    seen, found = set[str](), dict[str, Member]()

    def is_told(name: str) -> bool:
        name = fold(name)
        if name in seen:
            raise _Twice
        seen.add(name)
        return name in _TELLING

    def note(member: Member) -> None:
        found[fold(member.name)] = member

    reader = JsonMembers(is_told, note, max_value_bytes=len(message))
    try:
        in_short_turns((message[at : at + SLICE_BYTES] for at in range(0, len(message), SLICE_BYTES)), reader.feed)
        reader.finish()
    except _Twice:
        raise InvalidJson("A member of the message stands there twice") from None
    except InvalidJson:
        raise Unreadable from None
    return found


def _text_in(found: dict[str, Member], name: str) -> str | None:
    member = found.get(name)
    return member.text or None if member is not None and member.is_string else None


def _object_in(found: dict[str, Member], name: str) -> bytes:
    """Return a member that is an object; an empty one where there is none."""
    member = found.get(name)
    text = member.text if member is not None and not member.is_string else None
    return text.encode() if text is not None and text.startswith("{") else _EMPTY


def _loaded(message: bytes) -> dict[str, Any]:
    """Return a short JSON object. Raises Unreadable."""
    try:
        found = orjson.loads(message)
    except ValueError:
        raise Unreadable from None
    if not isinstance(found, dict):
        raise Unreadable
    return found


def _outline(message: bytes) -> dict[str, Any]:
    """Return what tells something of a long JSON object: its short members, and those of its response or session.

    Raises Unreadable.
    """
    try:
        members = _members(message)
        found = _short_values(members)
        for name in _OUTLINED:
            if name in members:
                found[name] = _short_values(_members(_object_in(members, name)))
    except (InvalidJson, ValueError):  # the second: orjson takes less than RFC 8259, as in a short message
        raise Unreadable from None
    return found


def _short_values(members: dict[str, Member]) -> dict[str, Any]:
    """Return the values of members that are not long themselves. Raises ValueError."""
    short = {name: member for name, member in members.items() if len(member.text or "") <= _SHORT_BYTES}
    return {
        name: member.text if member.is_string else orjson.loads(member.text or "null") for name, member in short.items()
    }


def _server_message(found: dict[str, Any]) -> ServerMessage:
    kind = _text(found, "type") or ""
    if kind.startswith(("session.", "transcription_session.")):
        session = _object(found, "session")
        return ServerMessage(model=_text(session, "model"), transcriber=_transcriber(session))
    if kind == TRANSCRIBED:
        return ServerMessage(kind)
    if kind == ERROR:
        about = found.get("error")
        about = about if isinstance(about, dict) else found
        status = found.get("status")
        return ServerMessage(
            kind,
            stream_id=_text(found, "stream_id"),
            event_id=_text(about, "event_id"),
            status=status if isinstance(status, int) and 400 <= status < 600 else 500,
            is_busy=about.get("code") == _BUSY,
        )
    if not kind.startswith("response."):
        return ServerMessage()
    response = found.get("response")
    response_id = _text(response, "id") if isinstance(response, dict) else _text(found, "response_id")
    return ServerMessage(kind, response_id, _text(found, "stream_id"))


def _transcriber(session: dict[str, Any]) -> str | None:
    """Return the model that turns speech into text, at its place in today's sessions or in the first ones."""
    audio = _object(_object(_object(session, "audio"), "input"), "transcription")
    return _text(audio, "model") or _text(_object(session, "input_audio_transcription"), "model")


def _object(found: dict[str, Any], name: str) -> dict[str, Any]:
    value = found.get(name)
    return value if isinstance(value, dict) else {}


def _text(found: dict[str, Any], name: str) -> str | None:
    value = found.get(name)
    return value if isinstance(value, str) and value else None
