"""Step 13 of the pipeline: what a request asks for in its query and body, before it is sent."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any
from urllib.parse import parse_qsl

import orjson

from llm_proxy.errors import InvalidJson, InvalidRequest, RequestTooLarge, StreamingDisabled
from llm_proxy.forwarding.body import PIECE_BYTES, HeldBody, Source, StreamedBody, check_declared, hold, open_body
from llm_proxy.forwarding.multipart import FormScanner, InvalidMultipart, boundary_of
from llm_proxy.providers.parameters import ParameterRules, json_members

Body = bytes | StreamedBody | HeldBody
_STREAM, _MODEL = "stream", "model"
_YES = (True, 1, "true", "1", "True")


class Kind(Enum):
    """What a Content-Type makes of a body."""

    JSON = "json"
    MULTIPART = "multipart"
    URLENCODED = "urlencoded"
    OTHER = "other"


def kind_of(content_type: str | None) -> Kind:
    """By the media type alone, whatever its parameters and case; a missing or unknown one is OTHER."""
    if not content_type:
        return Kind.OTHER
    if content_type == "application/json":
        return Kind.JSON
    media_types = [part.partition(";")[0].strip().lower() for part in content_type.split(",")]
    for media_type in media_types:  # a list is no valid Content-Type, and yet somebody may read its last or first item
        if media_type == "application/json" or media_type.endswith("+json"):
            return Kind.JSON
        if media_type == "multipart/form-data":
            return Kind.MULTIPART
        if media_type == "application/x-www-form-urlencoded":
            return Kind.URLENCODED
    return Kind.OTHER


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """What the inspection needs of a request. `length` is None when the body is chunked; `source` when there is none.

    `waits`: the client expects 100-continue.
    """

    method: str
    query: str
    content_type: str | None
    content_encoding: str | None
    source: Source | None
    length: int | None
    waits: bool = False


class Inspector:
    """The rules of one provider together with the settings' limits; shared by all requests.

    Args:
        rules: Empty rules look at nothing.
        max_request_bytes: MAX_REQUEST_SIZE; 0 is no limit.
        max_inspected_bytes: MAX_INSPECTED_BODY, for bodies that are held.
        allows_streams: ENABLE_STREAMING.
    """

    def __init__(
        self,
        rules: ParameterRules,
        *,
        max_request_bytes: int = 0,
        max_inspected_bytes: int,
        allows_streams: bool = True,
    ) -> None:
        self._rules = rules
        self._has_rules = bool(rules)
        self._max_request_bytes = max_request_bytes
        self._max_held_bytes = min(max_inspected_bytes, max_request_bytes or max_inspected_bytes)
        self._max_inspected_bytes = max_inspected_bytes
        self._allows_streams = allows_streams
        self._is_idle = allows_streams and not self._has_rules

    def admit(
        self, incoming: Incoming, *, must_hold: bool = False, named: Callable[[str], None] | None = None
    ) -> Body | None:
        """The body to forward, looked at as far as the rules ask for it; None when there is none.

        A StreamedBody is still with the client. Whoever gets a body closes it.

        Args:
            must_hold: The caller needs the whole body, whatever the rules.
            named: Told of each model that the body names, before it is forwarded; raises to refuse it.

        Raises:
            ParamNotAllowed, InvalidJson, InvalidRequest, StreamingDisabled, RequestTooLarge, InsufficientStorage,
            ClientConnectionError.
        """
        if not self._is_idle:
            self._check_query(incoming.query)
        source = incoming.source
        if source is None:
            return None
        must_hold = must_hold or named is not None
        if self._is_idle and not must_hold:
            return open_body(source, incoming.length, max_bytes=self._max_request_bytes, waits=incoming.waits)
        kind = kind_of(incoming.content_type) if incoming.method.upper() in ("POST", "PUT", "PATCH") else Kind.OTHER
        if self._is_idle and named is None:
            kind = Kind.OTHER
        if kind is Kind.OTHER and not must_hold:
            return open_body(source, incoming.length, max_bytes=self._max_request_bytes, waits=incoming.waits)
        if kind is Kind.MULTIPART:
            return self._form(incoming, source, named)
        held = hold(source, incoming.length, max_bytes=self._max_held_bytes)
        try:
            if kind is not Kind.OTHER:
                self._check_held(held, kind, incoming.content_encoding)
            if named is not None:
                _refuse_encoded(incoming.content_encoding)
                for model in _models(held.content(), is_form=kind is Kind.URLENCODED):
                    named(model)
        except BaseException:
            held.close()
            raise
        return held

    def _check_query(self, query: str) -> None:
        if not query:
            return
        self._rules.check_query(query)
        if not self._allows_streams and _asks_in_pairs(query):
            raise StreamingDisabled

    def _check_held(self, held: HeldBody, kind: Kind, content_encoding: str | None) -> None:
        content = held.content()
        if kind is Kind.JSON:
            if self._has_rules:
                self._rules.check_json(content)
            asks: Callable[[bytes], bool] = asks_for_stream
        else:
            if self._has_rules:
                _refuse_encoded(content_encoding)
                self._rules.check_urlencoded(content)
            asks = _asks_in_form
        if not self._allows_streams and asks(content):
            raise StreamingDisabled

    def _form(self, incoming: Incoming, source: Source, named: Callable[[str], None] | None) -> HeldBody:
        """A multipart body passes to the temporary file; what is checked of it counts as inspected, the rest not."""
        check_declared(incoming.length, self._max_request_bytes)
        is_strict = self._has_rules or named is not None
        if is_strict:
            _refuse_encoded(incoming.content_encoding)
        held = HeldBody()
        try:
            scanner = self._scanner(incoming, named)
            while data := source.read1(PIECE_BYTES):
                if self._max_request_bytes and held.length + len(data) > self._max_request_bytes:
                    raise RequestTooLarge
                scanner = self._look(scanner, data, is_strict=is_strict)
                held.write(data)
            self._look(scanner, b"", is_strict=is_strict)
        except BaseException:
            held.close()
            raise
        return held

    def _scanner(self, incoming: Incoming, named: Callable[[str], None] | None) -> FormScanner | None:
        names = set(self._rules.names) if self._allows_streams else {*self._rules.names, _STREAM}
        if named is not None:
            names.add(_MODEL)
        found: Callable[[str, str | None], None] = self._found if named is None else self._found_and(named)
        try:
            boundary = boundary_of(incoming.content_type or "")
        except InvalidMultipart:
            if self._has_rules or named is not None:
                raise
            return None
        return FormScanner(boundary, names, found, max_bytes=self._max_inspected_bytes)

    def _found_and(self, named: Callable[[str], None]) -> Callable[[str, str | None], None]:
        def found(name: str, value: str | None) -> None:
            self._found(name, value)
            if name == _MODEL:
                named("…" if value is None else value)

        return found

    @staticmethod
    def _look(scanner: FormScanner | None, data: bytes, *, is_strict: bool) -> FormScanner | None:
        """The next piece; b"" is the end. Where no rule depends on it, a form that cannot be read is let be."""
        if scanner is not None:
            try:
                scanner.feed(data) if data else scanner.finish()
            except InvalidMultipart:
                if is_strict:
                    raise
                return None
        return scanner

    def _found(self, name: str, value: str | None) -> None:
        if value is None:
            self._rules.refuse(name, "…")
            return
        self._rules.check(name, value)
        if name == _STREAM and not self._allows_streams and value.strip() in _YES:
            raise StreamingDisabled


def _refuse_encoded(content_encoding: str | None) -> None:
    """A compressed form cannot be read here, and passing it unread would undo the rules."""
    if content_encoding and content_encoding.strip().lower() != "identity":
        raise InvalidRequest("Content-Encoding is not accepted where parameters are checked", param="Content-Encoding")


def _models(content: bytes, *, is_form: bool) -> list[str]:
    """Every model that a body names; one that is no text stands as JSON. What is no object names none."""
    if is_form:
        return [value for name, value in parse_qsl(content.decode("utf-8", "replace")) if name == _MODEL]
    if b"model" not in content and b"\\u" not in content:
        return []
    try:
        members = json_members(content)
    except InvalidJson:
        return []
    found = [value for name, value in members if name == _MODEL and value is not None]
    return [value if isinstance(value, str) else repr(value) for value in found]


def asks_for_stream(content: bytes) -> bool:
    """Whether a JSON body has a true `stream` at its top. What is no JSON object asks for nothing."""
    if b'"stream"' not in content and b"\\u" not in content:
        return False
    try:
        document: Any = orjson.loads(content)
    except orjson.JSONDecodeError:
        return False
    if not isinstance(document, dict) or _STREAM not in document:
        return False
    members = json_members(content) if content.count(_STREAM.encode()) > 1 else document.items()
    return any(name == _STREAM and value in _YES for name, value in members)


def _asks_in_pairs(text: str) -> bool:
    return any(name == _STREAM and value in _YES for name, value in parse_qsl(text))


def _asks_in_form(content: bytes) -> bool:
    return _asks_in_pairs(content.decode("utf-8", "replace"))
