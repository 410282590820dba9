"""The state of one exchange and its transitions, and the registry of those that run. Nothing is decided here."""

from collections.abc import Sequence
from typing import Any, Protocol

from llm_proxy.accounting.outcomes import Row
from llm_proxy.accounting.quota import Unit
from llm_proxy.cache.lookup import CacheLookup
from llm_proxy.cache.policy import RequestDirectives
from llm_proxy.events.capture import Capture
from llm_proxy.events.unseen import Unseen
from llm_proxy.forwarding.breaker import NO_PROBE, Scope
from llm_proxy.forwarding.inspection import Body
from llm_proxy.forwarding.lane import Lane
from llm_proxy.forwarding.request import ProxyRequest
from llm_proxy.forwarding.taps import Tap
from llm_proxy.forwarding.timing import Timing
from llm_proxy.model.token import TokenSnapshot
from llm_proxy.usage.meter import Metered

Fields = Sequence[tuple[str, str]]
CLIENT_GONE, REVOKED, CUT_BY_OPERATOR = "client gone", "revoked", "operator"  # reasons of cuts, beside the drain's


class Cuttable(Protocol):
    """A wait that can be ended from outside: the transport's exchange, or a wait for another request's response."""

    def cut(self, reason: str) -> None:
        """End it in any phase; safe in the hub, any number of times."""


class Seat(Protocol):
    """A place that is held as long as the exchange lasts."""

    def release(self) -> None:
        """Give it back."""


class Sender(Protocol):
    """What sends a body."""

    sent_bytes: int


class Exchange:
    """One request: what it holds, what is known of it, and how far it has come.

    Attributes:
        token: Facts of the token, once the bearer was found to be one.
        bearer_hint: What may be shown of the bearer, while it is not known to be a token.
        is_usable: Whether it got past the limits of token and project, so that `last_used_at` moves.
        body: The request's, once it was admitted; closed at the end.
        directives: What the request asks of caches; None: it bypasses them.
        lookup: Its look-up in the cache, once it was made.
        cache_fields: The response fields that tell what the cache did.
        has_slot: Whether it holds one of the worker's slots.
        lane: Its provider's.
        probe: Which open circuits it probes.
        scope: The circuit that it is behind, once it was asked for.
        unit: The unit taken; None before and after.
        taps: What watches the bytes of both bodies.
        event: The tap that makes its event.
        usage: The tap that reads what it used.
        is_dispatched: Whether sending to the provider has begun.
        status: The provider's status, once its header section has arrived.
        sent_status: The status that the client was sent.
        final_status: What log, metrics and event call its status, once it has ended.
        served: The row of a stored response that was served.
        is_stale_served: A stale response stood in for a provider that failed.
        is_stream: Whether the response is an event stream.
        is_client_gone: Whether the client has closed its connection.
        response_bytes: Body bytes that the server took, once it has ended.
        relay: What sends the body, while it does.
        timing: When it passed each point.
        cut_reason: Why it was cut; the first reason counts.
        kind: `request`, `websocket` for a handshake and what follows it, or `turn` of one.
        seat: Its place among the open WebSockets; released at the end.
        details: Further fields of its access line.
    """

    __slots__ = (
        "_upstream", "bearer_hint", "body", "cache_fields", "cut_reason", "details", "directives", "event",
        "final_status", "has_slot", "is_client_gone", "is_dispatched", "is_settled", "is_stale_served", "is_stream",
        "is_usable", "kind", "lane", "lookup", "probe", "relay", "request", "response_bytes", "scope", "seat",
        "sent_status", "served", "status", "taps", "timing", "token", "unit", "usage",
    )  # fmt: skip

    def __init__(self, request: ProxyRequest, lane: Lane) -> None:
        self.request, self.lane = request, lane
        self.probe = NO_PROBE
        self.scope: Scope | None = None
        self.token: TokenSnapshot | None = None
        self.bearer_hint: str | None = None
        self.body: Body | None = None
        self.directives: RequestDirectives | None = None
        self.lookup: CacheLookup | None = None
        self.cache_fields: Fields = ()
        self.unit: Unit | None = None
        self.taps: Sequence[Tap] = ()
        self.event: Capture | Unseen | None = None
        self.usage: Metered | None = None
        self.served: Row | None = None
        self.status: int | None = None
        self.sent_status: int | None = None
        self.cut_reason: str | None = None
        self.kind = "request"
        self.seat: Seat | None = None
        self.details: dict[str, Any] | None = None
        self.timing = Timing(int(request.received_at * 1e9))
        self.response_bytes = self.final_status = 0
        self.is_usable = self.is_dispatched = self.has_slot = False
        self.is_client_gone = self.is_stream = self.is_stale_served = self.is_settled = False
        self.relay: Sender | None = None
        self._upstream: Cuttable | None = None

    @property
    def known_token(self) -> TokenSnapshot:
        """The token of an exchange that was authenticated."""
        assert self.token is not None
        return self.token

    @property
    def received_bytes(self) -> int:
        """Bytes of the request's body that have come."""
        body = self.body
        return len(body or b"") if body is None or isinstance(body, bytes) else body.received_bytes

    @property
    def relayed_bytes(self) -> int:
        """Bytes of the response's body that the client was sent so far."""
        return self.response_bytes if self.relay is None else self.relay.sent_bytes

    def attach(self, upstream: Cuttable) -> None:
        """Begin a wait that `cut` must end. From here on the client's leaving ends the exchange."""
        self._upstream = upstream
        if self.cut_reason is not None:
            upstream.cut(self.cut_reason)
        client = self.request.client
        if client is not None:
            client.on_gone(self._client_gone)

    def dispatched(self) -> None:
        """Note that sending begins now."""
        self.is_dispatched = True
        self.timing.sent()

    def response_started(self, status: int, *, is_stream: bool) -> None:
        """Note that the provider's header section has arrived."""
        self.timing.response_started()
        self.status = self.sent_status = status
        self.is_stream = is_stream

    def cut(self, reason: str) -> None:
        """End it from outside: `drain`, `revoked`, `client gone`. Safe in the hub; the first reason counts."""
        if self.cut_reason is None:
            self.cut_reason = reason
        if self._upstream is not None:
            self._upstream.cut(reason)

    def switched(self, upstream: Cuttable) -> None:
        """Note that the connection has become a WebSocket, whose own end tells when the client has left."""
        self._upstream = upstream
        if self.request.client is not None:
            self.request.client.unwatch()
        if self.cut_reason is not None:
            upstream.cut(self.cut_reason)

    def _client_gone(self) -> None:
        self.is_client_gone = True
        self.cut(CLIENT_GONE)

    def detach(self) -> None:
        """End the exchange: watch the client no longer, and release the request's body."""
        self.relay = self._upstream = None  # a WebSocket is both, and holds this exchange
        client = self.request.client
        if client is not None:
            self.is_client_gone = self.is_client_gone or client.is_gone
            client.unwatch()
        if self.body is not None and not isinstance(self.body, bytes):
            self.body.close()


class ExchangeRegistry:
    """The exchanges of a worker that are not settled.

    Attributes:
        live: All of them.
        open_streams: How many relay an event stream.
        open_sockets: How many are WebSockets.
    """

    def __init__(self) -> None:
        self.live: set[Exchange] = set()
        self.open_streams = self.open_sockets = 0

    def cut(self, reason: str) -> None:
        """End every exchange that runs; `drain` at the drain's end. Each is settled as its wait ends."""
        for exchange in list(self.live):
            exchange.cut(reason)

    def streaming_tokens(self) -> set[str]:
        """Ids of tokens that have live event streams."""
        if not self.open_streams:
            return set()
        return {exchange.token.id for exchange in self.live if exchange.is_stream and exchange.token}

    def cut_streams_of(self, token_id: str) -> None:
        """End the live event streams of a token that was revoked."""
        for exchange in list(self.live):
            if exchange.is_stream and exchange.token is not None and exchange.token.id == token_id:
                exchange.cut(REVOKED)
