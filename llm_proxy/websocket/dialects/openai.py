"""OpenAI's Responses and Realtime over WebSocket: which messages begin, carry and end a turn.

A client's message is read to its last byte before it is forwarded, because any member of it may be the one that names
its type. A provider's message is believed.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, Final

import orjson

from llm_proxy.errors import InvalidJson, LlmProxyError
from llm_proxy.formats.names import fold

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
        found = _loaded(message)
        kinds = [value for name, value in found.items() if fold(name) == "type"]
        is_turn = CREATE in kinds
        if not is_turn and not any(kind in _SESSION for kind in kinds):
            return _NOTHING
        inner = found
        parameters: bytes | None = message
        if self.is_realtime:
            held = found.get("response" if is_turn else "session")
            inner = held if isinstance(held, dict) else {}
            parameters = json.dumps(inner).encode() if inner else None
        return ClientMessage(
            is_turn, parameters, _text(found, "stream_id"), _text(found, "event_id"), _text(inner, "model")
        )

    def server(self, message: bytes, *, is_alone: bool) -> ServerMessage:
        """Read a provider's message. Raises Unreadable.

        Args:
            is_alone: At most one turn runs, so that a delta need not say whose it is.
        """
        sniffed = _TYPE.match(message)
        kind = b"" if sniffed is None else sniffed[1]
        if is_alone and kind.endswith(b".delta"):
            return ServerMessage(kind.decode("utf-8", "replace"))
        try:
            found = orjson.loads(message)
        except ValueError:
            raise Unreadable from None
        if not isinstance(found, dict):
            raise Unreadable
        return _server_message(found)

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
    members = message.strip(_BLANKS)[1:-1].strip(_BLANKS)
    return b"{" + members + (b"," if members else b"") + b'"model":' + orjson.dumps(model) + b"}"


_NOTHING = ClientMessage()


def _unreadable() -> ClientMessage:
    raise Unreadable


def _looks_like_object(message: bytes) -> bool:
    return message.lstrip(_BLANKS)[:1] == b"{" and message.rstrip(_BLANKS)[-1:] == b"}"


def _loaded(message: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise InvalidJson("A member of the message stands there twice")
        return found

    try:
        found = json.loads(message.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError):
        raise Unreadable from None
    if not isinstance(found, dict):
        raise Unreadable
    return found


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
