"""Step 13 of the pipeline: what a request asks for in its query and body, before it is sent."""

from collections.abc import Callable
from typing import NamedTuple

from llm_proxy.errors import EndpointNotBudgeted, InvalidJson, InvalidRequest, StreamingDisabled
from llm_proxy.formats.multipart import InvalidMultipart
from llm_proxy.formats.request_body import (
    SLICE_BYTES,
    Kind,
    Parameter,
    Reader,
    check_charset,
    decoded,
    kind_of,
    pairs,
    reader_of,
)
from llm_proxy.forwarding.body import (
    HeldBody,
    Limit,
    Room,
    Source,
    StreamedBody,
    Timed,
    hold,
    open_body,
)
from llm_proxy.providers.parameters import ParameterRules
from llm_proxy.runtime.short_turns import in_short_turns

Body = bytes | StreamedBody | HeldBody
_STREAM, _MODEL, _BACKGROUND, _PROMPT = "stream", "model", "background", "prompt"
_YES = ("true", "1", "1.0")
_READING = ("GET", "HEAD", "OPTIONS")  # of methods, those that start nothing at the provider


class Incoming(NamedTuple):
    """What the inspection needs of a request. `length` is None when the body is chunked; `source` when there is none.

    `content_encoding`: all lines of the field, joined. `waits`: the client expects 100-continue.
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
        max_held_bodies_bytes: MAX_HELD_BODIES; 0 is no limit.
        held_timeout_s: HELD_BODY_TIMEOUT; 0 is no limit.
    """

    def __init__(
        self,
        rules: ParameterRules,
        *,
        max_request_bytes: int = 0,
        max_inspected_bytes: int,
        allows_streams: bool = True,
        max_held_bodies_bytes: int = 0,
        held_timeout_s: float = 0.0,
    ) -> None:
        self._rules = rules
        self._limit = Limit(max_request_bytes)
        self._inspected_limit = self._limit.stricter(Limit(max_inspected_bytes, "MAX_INSPECTED_BODY"))
        self._max_inspected_bytes = max_inspected_bytes
        self._allows_streams = allows_streams
        self._room, self._held_timeout_s = Room(max_held_bodies_bytes), held_timeout_s

    def admit(
        self,
        incoming: Incoming,
        *,
        must_hold: bool = False,
        named: Callable[[str], None] | None = None,
        refuses_unseen: bool = False,
    ) -> Body | None:
        """Return the body to forward, looked at as far as the rules ask for it; None when there is none.

        A StreamedBody is still with the client. The caller closes the body.

        Args:
            must_hold: The caller needs the whole body, whatever the rules.
            named: Told of each model that query and body name, before it is forwarded; raises to refuse it.
            refuses_unseen: Refuse background responses and stored prompts, whose use no budget sees.

        Raises:
            ParamNotAllowed, InvalidJson, InvalidRequest, StreamingDisabled, RequestTooLarge, InsufficientStorage,
            Overloaded, ClientConnectionError.
        """
        look = _Look(self._rules, self._allows_streams, named, refuses_unseen=refuses_unseen)
        if not look.is_idle:
            self._check_query(incoming, look)
        source = incoming.source
        if source is None:
            return None
        if not look.is_idle and (look.is_strict or _may_ask_for_streams(incoming)):
            return self._inspect(incoming, source, look)
        if must_hold:
            return hold(
                Timed(source, self._held_timeout_s), incoming.length, limit=self._inspected_limit, room=self._room
            )
        return open_body(source, incoming.length, limit=self._limit, waits=incoming.waits)

    def check_model(self, model: str) -> None:
        """Check a model that the path names. Raises ParamNotAllowed."""
        self._rules.check(_MODEL, model)

    def _check_query(self, incoming: Incoming, look: "_Look") -> None:
        if not incoming.query:
            return
        self._rules.check_query(incoming.query)
        for name, value in pairs(incoming.query.encode("latin-1", "replace")):
            if (name == _MODEL and incoming.method not in _READING) or name == _STREAM:
                look.found_beside_rules(Parameter(name, decoded(value)))

    def _inspect(self, incoming: Incoming, source: Source, look: "_Look") -> HeldBody:
        """Hold the body, and look at it while it comes, in slices between which others have their turn."""
        if look.is_strict:
            _refuse_encoded(incoming.content_encoding)
            check_charset(incoming.content_type)
        is_form = kind_of(incoming.content_type) is Kind.MULTIPART  # goes to a file: what is checked of it counts
        limit = self._limit if is_form else self._inspected_limit
        limit.check(incoming.length)  # before a reader is made: it refuses with less to say
        scan = _Scan(look, self._reader(incoming, look))
        source = Timed(source, self._held_timeout_s)
        return hold(source, incoming.length, limit=limit, room=self._room, look=scan.look)

    def _reader(self, incoming: Incoming, look: "_Look") -> Reader | None:
        try:
            return reader_of(
                incoming.content_type, look.watched, look.found, max_watched_bytes=self._max_inspected_bytes
            )
        except InvalidRequest:
            if look.is_strict:
                raise
            return None


class _Look:
    """What one request's parameters have to be.

    Attributes:
        is_strict: A body that cannot be read is refused: rules or money depend on it.
        is_idle: There is nothing to look for.
        watched: Folded names of parameters to look for.
    """

    __slots__ = ("_allows_streams", "_named", "_refuses_unseen", "_rules", "is_idle", "is_strict", "watched")

    def __init__(
        self,
        rules: ParameterRules,
        allows_streams: bool,
        named: Callable[[str], None] | None,
        *,
        refuses_unseen: bool = False,
    ) -> None:
        self._rules, self._allows_streams, self._named = rules, allows_streams, named
        self._refuses_unseen = refuses_unseen
        self.is_strict = bool(rules) or named is not None or refuses_unseen
        self.is_idle = allows_streams and not self.is_strict
        self.watched = rules.names
        if not allows_streams:
            self.watched |= {_STREAM}
        if named is not None:
            self.watched |= {_MODEL}
        if refuses_unseen:
            self.watched |= {_BACKGROUND, _PROMPT}

    def found(self, parameter: Parameter) -> None:
        """Check one occurrence. Raises ParamNotAllowed, StreamingDisabled, or what `named` raises."""
        if parameter.text is None:
            self._rules.refuse(parameter.name, "…")
        else:
            self._rules.check(parameter.name, parameter.text)
        self.found_beside_rules(parameter)

    def found_beside_rules(self, parameter: Parameter) -> None:
        """Check what is no rule's. Raises StreamingDisabled, or what `named` raises."""
        name, text, is_string = parameter
        if name == _STREAM and not self._allows_streams and (text is None or text.strip().lower() in _YES):
            raise StreamingDisabled
        if self._refuses_unseen and is_unseen(parameter):
            raise EndpointNotBudgeted(param=name)
        if name == _MODEL and self._named is not None and (is_string or text != "null"):
            self._named("…" if text is None else text)


class _Scan:
    """Feeds a reader slice by slice; lets others run in between. A lenient look ends where the body cannot be read."""

    def __init__(self, look: _Look, reader: Reader | None) -> None:
        self._is_strict, self._reader = look.is_strict, reader
        self._is_first = True

    def look(self, data: bytes) -> None:
        """Read the next piece; b"" is the end."""
        start = 0
        if self._is_first or not data:  # a short body waits for no other
            self._is_first = False
            self._run(data[:SLICE_BYTES])
            start = SLICE_BYTES
        in_short_turns((data[at : at + SLICE_BYTES] for at in range(start, len(data), SLICE_BYTES)), self._run)

    def _run(self, data: bytes) -> None:
        if self._reader is None:
            return
        try:
            self._reader.feed(data) if data else self._reader.finish()
        except InvalidRequest as error:
            if self._is_strict or not isinstance(error, InvalidJson | InvalidMultipart):
                raise
            self._reader = None


def is_unseen(parameter: Parameter) -> bool:
    """Return whether a parameter asks for what no budget sees: a response in the background, or a stored prompt."""
    name, text, is_string = parameter
    if name == _BACKGROUND:
        return text is None or text.strip().lower() not in ("false", "0", "null", "")
    return name == _PROMPT and not is_string and text is not None and text.startswith("{")


def _may_ask_for_streams(incoming: Incoming) -> bool:
    """Return whether the body may hold `stream`, by its method and type alone."""
    return incoming.method.upper() in ("POST", "PUT", "PATCH") and kind_of(incoming.content_type) is not Kind.OTHER


def _refuse_encoded(content_encoding: str | None) -> None:
    """Refuse a compressed body: it cannot be read here, and passing it unread would undo the rules."""
    codings = {coding.strip().lower() for coding in (content_encoding or "").split(",")}
    if codings - {"", "identity"}:
        raise InvalidRequest("Content-Encoding is not accepted where parameters are checked", param="Content-Encoding")
