"""Turns of a WebSocket as exchanges: each is admitted, charged, tapped and settled as a request would be."""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

import gevent
from gevent.lock import BoundedSemaphore

from llm_proxy.accounting.quota import Quota, Unit
from llm_proxy.errors import LlmProxyError, Overloaded, UpstreamCut
from llm_proxy.forwarding.exchange import CLIENT_GONE, Cuttable, Exchange, ExchangeRegistry
from llm_proxy.forwarding.inspection import Incoming, Inspector
from llm_proxy.forwarding.request import ProxyRequest
from llm_proxy.forwarding.settlement import Settlement
from llm_proxy.forwarding.taps import DataTap, Tap, response_taps
from llm_proxy.forwarding.token_steps import TokenSteps
from llm_proxy.usage.budgets import Budgets
from llm_proxy.websocket.dialects.openai import ClientMessage, OpenAI, with_model
from llm_proxy.websocket.turns import Step, TurnBook

_TURN_FIELDS = [("Content-Type", "text/event-stream")]  # taps see a turn as the event stream that it would have been
_log = logging.getLogger(__name__)


class _Bytes:
    """A message as a request's body."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def read1(self, n: int, /) -> bytes:
        """Return the next `n` bytes at most."""
        start, self._at = self._at, self._at + n
        return self._data[start : self._at]


class _Turn:
    """A turn that runs."""

    __slots__ = ("exchange", "sent_bytes", "taps")

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.taps: list[DataTap] | None = None  # None until the provider has said something
        self.sent_bytes = 0

    def response_started(self, status: int) -> None:
        """Note the first message of the provider."""
        self.exchange.response_started(status, is_stream=False)
        self.taps = response_taps(self.exchange.taps, status, _TURN_FIELDS)

    def add(self, message: bytes) -> None:
        """Show a message to the taps."""
        self.sent_bytes += len(message)
        piece = b"data: " + message.replace(b"\r", b" ").replace(b"\n", b" ") + b"\n\n"
        for tap in self.taps or ():
            tap(piece)


class TurnDesk:
    """What the turns of all WebSockets of a worker need.

    Args:
        steps: Steps 9 to 12.
        tap_factories: Make what watches the bytes of an exchange; each may refuse it.
        refuses_unseen: Whether what is not metered is refused where a budget limits the token.
    """

    def __init__(
        self,
        *,
        registry: ExchangeRegistry,
        settlement: Settlement,
        steps: TokenSteps,
        quota: Quota,
        budgets: Budgets,
        inspector: Inspector,
        tap_factories: Sequence[Callable[[Exchange], Tap]],
        refuses_unseen: bool = False,
    ) -> None:
        self.registry, self.settlement, self.steps, self.quota = registry, settlement, steps, quota
        self._budgets, self._inspector = budgets, inspector
        self._tap_factories, self._refuses_unseen = tuple(tap_factories), refuses_unseen

    def check_parameters(self, exchange: Exchange, parameters: bytes) -> None:
        """Step 13. Raises what the rules raise."""
        token, budgets = exchange.known_token, self._budgets
        body = self._inspector.admit(
            Incoming(
                method="POST",
                query="",
                content_type="application/json",
                content_encoding=None,
                source=_Bytes(parameters),
                length=len(parameters),
            ),
            named=self.steps.check_price if budgets.needs_price(token) else None,
            refuses_unseen=self._refuses_unseen and budgets.is_limited(token),
        )
        if body is not None and not isinstance(body, bytes):
            body.close()

    def enter(self, exchange: Exchange) -> None:
        """Make the taps and take a slot."""
        exchange.taps = [make(exchange) for make in self._tap_factories]
        exchange.lane.slots.take()
        exchange.has_slot = True


class Refused(Exception):
    """A client's message must not reach the provider; `message` tells the client why, in the API's form."""

    def __init__(self, message: bytes) -> None:
        super().__init__()
        self.message = message


class Ender(Protocol):
    """The WebSocket, as its turns see it."""

    def spent(self, code: str) -> None:
        """Let the provider begin no further turn: end when none runs."""


class SocketTurns:
    """The turns of one WebSocket.

    Args:
        exchange: Of the handshake.
        bearer: Asked again before each turn.
    """

    def __init__(self, desk: TurnDesk, exchange: Exchange, bearer: str, dialect: OpenAI) -> None:
        self._desk, self._socket, self._bearer, self._dialect = desk, exchange, bearer, dialect
        self._book: TurnBook[_Turn] = TurnBook(is_realtime=dialect.is_realtime)
        self._reserve: Unit | None = None
        self._reserve_lock = BoundedSemaphore() if dialect.is_realtime else None
        self._model: str | None = None
        self._transcriber: str | None = None
        self._is_over = False
        self.count = 0
        self.ender: Ender | None = None

    @property
    def is_running(self) -> bool:
        """Whether a turn runs."""
        return bool(self._book.running)

    def open(self, model: str | None, reserve: Unit | None) -> None:
        """Begin with the model that the handshake named, and the unit that the provider may spend by itself."""
        self._model, self._reserve = model, reserve

    # -- the client's messages ----------------------------------------------------------------------------------------

    def on_client(self, message: bytes, upstream: Cuttable) -> None:
        """Look at a message before it is forwarded; a turn that it begins is charged here.

        Raises:
            Refused: It must not be forwarded.
            Unreadable: What it begins cannot be known.
        """
        asked = ClientMessage()
        try:
            asked = self._dialect.client(message)
            if asked.is_turn:
                self._begin(message, asked, upstream)
            elif asked.parameters is not None:
                self._desk.check_parameters(self._socket, asked.parameters)
        except LlmProxyError as error:
            event_id = f"event_{self._socket.request.request_id}"
            raise Refused(self._dialect.error(error, asked, event_id)) from error

    def _begin(self, message: bytes, asked: ClientMessage, upstream: Cuttable) -> None:
        exchange = self._exchange(message)
        desk = self._desk
        try:
            token = desk.steps.admit(exchange, self._bearer)
            if asked.parameters is not None:
                desk.check_parameters(exchange, asked.parameters)
            desk.enter(exchange)
            exchange.unit = self._reserved() or desk.quota.reserve(token)
            if self._is_over:  # while it waited
                raise UpstreamCut(CLIENT_GONE)
        except BaseException as error:  # GreenletExit, the drain's cut, too
            desk.settlement.settle(exchange, error)
            raise
        self._dispatch(exchange, message, asked.model, upstream)
        turn = exchange.relay = _Turn(exchange)
        self._book.begin(turn, asked)

    def _exchange(self, message: bytes) -> Exchange:
        """Return a turn as the POST that it would have been, in the WebSocket's name."""
        handshake = self._socket.request
        fields = [("AUTHORIZATION", f"Bearer {self._bearer}"), ("CONTENT-TYPE", "application/json")]
        fields += [("X-CORRELATION-ID", handshake.request_id)]
        fields += [(name, value) for name, value in handshake.fields if name == "USER-AGENT"]
        request = ProxyRequest("POST", handshake.target, fields, client_addr=handshake.client_addr)
        exchange = Exchange(request, self._socket.lane)
        exchange.kind, exchange.body = "turn", message
        self.count += 1
        exchange.details = {"kind": "turn", "turn": self.count}
        self._desk.registry.live.add(exchange)
        return exchange

    def _dispatch(self, exchange: Exchange, message: bytes, model: str | None, upstream: Cuttable) -> None:
        exchange.dispatched()
        exchange.switched(upstream)
        if self._dialect.is_realtime:  # a session names the model once: taps see it with each turn
            message = with_model(message, model or self._model)
        for tap in exchange.taps:
            tap.request_data(message)

    # -- the provider's messages --------------------------------------------------------------------------------------

    def on_server(self, message: bytes, upstream: Cuttable) -> None:
        """Look at a message of the provider's. Raises Unreadable, or what refuses a turn that it began by itself."""
        said = self._dialect.server(message, is_alone=len(self._book.running) <= 1)
        self._model, self._transcriber = said.model or self._model, said.transcriber or self._transcriber
        step, turn = self._book.take(said)
        if step is Step.STRANGE:
            turn = self._strange(self._model, upstream)
            self._book.begin(turn, None, said.response_id)
        elif step is Step.WHOLE:
            turn = self._strange(self._transcriber or self._model, upstream)
        if turn is None:
            return
        if turn.taps is None:
            turn.response_started(said.status if step is Step.FAILED else 200)
            self._desk.quota.commit(turn.exchange.unit)
        turn.add(message)
        if step in (Step.ENDED, Step.FAILED, Step.WHOLE):
            self._desk.settlement.settle(turn.exchange, None, turn.sent_bytes)

    def _strange(self, model: str | None, upstream: Cuttable) -> _Turn:
        """Return a turn that the provider began by itself: it spends the reserve."""
        exchange = self._exchange(b"{}")
        desk = self._desk
        try:
            unit = self._reserved()
            if unit is None:
                desk.steps.admit(exchange, self._bearer)
                unit = desk.quota.reserve(exchange.known_token)
            exchange.token, exchange.is_usable, exchange.unit = self._socket.known_token, True, unit
            with suppress(Overloaded):  # it has begun: it counts, with or without a slot
                desk.enter(exchange)
        except LlmProxyError as error:
            desk.settlement.settle(exchange, error)
            raise
        self._dispatch(exchange, b"{}", model, upstream)
        turn = exchange.relay = _Turn(exchange)
        return turn

    # -- the reserve --------------------------------------------------------------------------------------------------

    def _reserved(self) -> Unit | None:
        """Take the reserve, and have another one fetched; None where there is none."""
        if self._reserve_lock is None:
            return None
        with self._reserve_lock:
            unit, self._reserve = self._reserve, None
        if unit is not None:
            gevent.spawn(self._refill)
        return unit

    def _refill(self) -> None:
        assert self._reserve_lock is not None
        try:
            with self._reserve_lock:
                token = self._desk.steps.look(self._bearer)
                self._reserve = self._desk.quota.reserve(token)
            if self._is_over:
                self._return_reserve()
        except LlmProxyError as error:
            if self.ender is not None:
                self.ender.spent(error.code or "rate_limit_exceeded")
        except Exception:
            _log.exception("a reserve could not be taken")

    # -- the end ------------------------------------------------------------------------------------------------------

    def end(self, failure: BaseException) -> None:
        """Settle the turns that run, and return the reserve. Repeats do nothing."""
        self._is_over = True
        for turn in self._book.end_all():
            self._desk.settlement.settle(turn.exchange, failure, turn.sent_bytes, False)
        self._return_reserve()

    def _return_reserve(self) -> None:
        unit, self._reserve = self._reserve, None
        if unit is not None:
            self._desk.quota.release(unit)
