"""The WebSockets of a worker: how they begin, and what ends them from outside."""

import logging
from collections.abc import Callable
from datetime import datetime
from time import monotonic
from typing import Any

import gevent

from llm_proxy.accounting.outcomes import WEBSOCKET
from llm_proxy.accounting.quota import Quota, Unit
from llm_proxy.errors import (
    LlmProxyError,
    ProjectInactive,
    StreamingDisabled,
    TokenNotFound,
    UpstreamBroken,
    UpstreamCut,
)
from llm_proxy.formats.request_body import decoded, pairs
from llm_proxy.forwarding.breaker import NO_PROBE
from llm_proxy.forwarding.entrance import leave
from llm_proxy.forwarding.exchange import REVOKED, Exchange
from llm_proxy.forwarding.handshake import Switched, check_handshake, handshake_bearer, has_extension
from llm_proxy.forwarding.request import ProxyRequest
from llm_proxy.forwarding.socket import Socket
from llm_proxy.forwarding.socket_limits import SocketLimits
from llm_proxy.forwarding.turns import SocketTurns, TurnDesk
from llm_proxy.limits.seats import Seat, Seats
from llm_proxy.model.token import TokenSnapshot
from llm_proxy.runtime.clock import utc_now
from llm_proxy.websocket import frames
from llm_proxy.websocket.dialects.openai import OpenAI

TICK_S = 0.25
_log = logging.getLogger(__name__)


class Place:
    """What a handshake holds: a seat, and with Realtime a unit in reserve, which comes back unless a turn spent it."""

    def __init__(self, seat: Seat, quota: Quota) -> None:
        self._seat, self._quota = seat, quota
        self.reserve: Unit | None = None

    def release(self) -> None:
        """Give both back; a unit that was spent stays so."""
        self._seat.release()
        if self.reserve is not None:
            self._quota.release(self.reserve)


class Sockets:
    """Opens WebSockets, and ends them when their time, their token or the server's is over.

    Args:
        seats: How many may be open on the machine.
        desk: What their turns need.
        limits: Bounds of each.
        allows_streams: ENABLE_STREAMING.
        allows_subprotocol: WS_ALLOW_SUBPROTOCOL_AUTH.
        has_rules: Whether the provider file has parameter rules, so that what cannot be read must not pass.
        is_draining: Whether the server leaves.
    """

    def __init__(
        self,
        seats: Seats,
        desk: TurnDesk,
        limits: SocketLimits,
        *,
        allows_streams: bool = True,
        allows_subprotocol: bool = False,
        has_rules: bool = False,
        is_draining: Callable[[], bool] = lambda: False,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._seats, self._desk, self._limits = seats, desk, limits
        self._allows_streams, self._allows_subprotocol = allows_streams, allows_subprotocol
        self._has_rules, self._is_draining, self._now = has_rules, is_draining, now
        self._open: dict[Socket, Exchange] = {}
        self._ticker: Any = None

    # -- the handshake ------------------------------------------------------------------------------------------------

    def check(self, request: ProxyRequest) -> None:
        """Raise InvalidRequest, StreamingDisabled."""
        if not self._allows_streams:
            raise StreamingDisabled
        check_handshake(request)

    def bearer(self, request: ProxyRequest) -> str:
        """Return the handshake's bearer. Raises InvalidToken."""
        return handshake_bearer(request, allows_subprotocol=self._allows_subprotocol)

    def seat(self, exchange: Exchange) -> None:
        """Take a seat for a handshake, and with Realtime the reserve. Raises what refuses them."""
        place = exchange.seat = Place(self._seats.take(exchange.known_token.id), self._desk.quota)
        if OpenAI(exchange.request.path).is_realtime:
            place.reserve = self._desk.quota.reserve(exchange.known_token)

    def check_response(self, fields: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Return the fields of a 101. Raises UpstreamBroken for an extension that was not offered."""
        if has_extension(fields):
            raise UpstreamBroken("The provider switched to an extension that it was not offered")
        return fields

    def open(self, exchange: Exchange, response: Switched) -> Socket:
        """Return the body that carries a WebSocket after the provider's 101."""
        request, token, place = exchange.request, exchange.known_token, exchange.seat
        assert isinstance(place, Place)
        turns = SocketTurns(self._desk, exchange, self.bearer(request), OpenAI(request.path))
        turns.open(_model_of(request.query), place.reserve)
        must_read = self._has_rules or _is_limited(token)
        socket = Socket(response, turns, self._limits, must_read=must_read, ended=self._ended)
        leave(exchange, "reset")  # what follows holds neither slot nor circuit
        exchange.has_slot, exchange.probe = False, NO_PROBE
        exchange.response_started(101, is_stream=False)
        exchange.served, exchange.relay = WEBSOCKET, socket
        exchange.taps, exchange.event, exchange.usage = (), None, None
        exchange.details = {"kind": "websocket"}
        self._open[socket] = exchange
        self._desk.registry.open_sockets += 1
        exchange.switched(socket)
        if self._ticker is None:
            self._ticker = gevent.spawn(self._run)
        return socket

    def _ended(self, socket: Socket, code: int) -> None:
        exchange = self._open.pop(socket, None)
        if exchange is None:
            return
        self._desk.registry.open_sockets -= 1
        counts = {"request_bytes": socket.taken_bytes, "turns": socket.turns.count}
        exchange.details = {"kind": "websocket", "close_code": code or 1006, **counts}
        self._desk.settlement.settle(exchange, None, socket.sent_bytes)

    # -- what ends them -----------------------------------------------------------------------------------------------

    def tokens(self) -> set[str]:
        """Return the ids of tokens that have open WebSockets."""
        return {exchange.known_token.id for exchange in self._open.values()} if self._open else set()

    def seen(self, token_id: str, row: TokenSnapshot | None) -> None:
        """Take what was just read of a token; end its WebSockets where it is dead. Does not wait."""
        death = self._death(row)
        for socket, exchange in list(self._open.items()):
            if exchange.known_token.id != token_id:
                continue
            if death is not None:
                socket.end(frames.POLICY_VIOLATION, death.code or "invalid_token", UpstreamCut(REVOKED))
            elif row is not None:
                exchange.token = row

    def _death(self, row: TokenSnapshot | None) -> type[LlmProxyError] | None:
        if row is None:
            return TokenNotFound
        if self._desk.steps.enforces_project and not row.project.is_active:
            return ProjectInactive
        return row.death(self._now())

    def _run(self) -> None:
        while self._open:
            gevent.sleep(TICK_S)
            try:
                self.tick()
            except Exception:
                _log.exception("WebSockets were not looked after")
        self._ticker = None

    def tick(self) -> None:
        """End those whose time is over, or, while the server drains, that run no turn."""
        now, is_draining, instant = monotonic(), self._is_draining(), self._now()
        for socket, exchange in list(self._open.items()):
            if socket.is_closing:
                continue
            expires_at = exchange.known_token.expires_at
            if expires_at is not None and instant > expires_at:
                self.seen(exchange.known_token.id, exchange.known_token)
            elif is_draining and not socket.turns.is_running:
                socket.cut("drain")
            elif (late := socket.late(now)) is not None:
                socket.end_late(late)
            else:
                socket.ping(now)


def _is_limited(token: TokenSnapshot) -> bool:
    """Return whether what a token does must be counted."""
    project = token.project
    most = (token.max_requests, token.max_total_tokens, token.max_cost_nano_usd, token.tokens_per_minute)
    rates = (token.requests_per_minute, project.requests_per_minute, project.tokens_per_minute)
    return any(limit is not None for limit in (*most, *rates, project.max_cost_nano_usd_per_month))


def _model_of(query: str) -> str | None:
    """Return the model that a Realtime handshake names."""
    found = [decoded(value) for name, value in pairs(query.encode("latin-1", "replace")) if name == "model"]
    return found[-1] or None if found else None
