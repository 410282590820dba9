"""One request's way through the proxy: the numbered steps, in their order.

Nothing is remembered between requests here; what a worker knows lives in the parts that it is wired from. A step that
refuses raises the error that is rendered.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial

from llm_proxy.accounting.quota import Quota
from llm_proxy.cache.lookup import StoredResponse
from llm_proxy.errors import (
    ClientConnectionError,
    ClientGone,
    Draining,
    EndpointNotBudgeted,
    LlmProxyError,
    UpgradeNotSupported,
    UpstreamAuthError,
    UpstreamCut,
)
from llm_proxy.forwarding.body import Limit, StreamedBody
from llm_proxy.forwarding.cors import Cors
from llm_proxy.forwarding.entrance import enter
from llm_proxy.forwarding.exchange import Exchange, ExchangeRegistry
from llm_proxy.forwarding.fields import (
    REPLACED_WITH_CORRELATION,
    REPLACED_WITH_ORIGIN,
    RequestFields,
    response_fields,
)
from llm_proxy.forwarding.handshake import SWITCHING, outgoing, upgraded
from llm_proxy.forwarding.inspection import Body, Incoming, Inspector
from llm_proxy.forwarding.lane import Lane
from llm_proxy.forwarding.own_responses import Fields, OwnResponses, Reply
from llm_proxy.forwarding.relay import Relay
from llm_proxy.forwarding.request import ProxyRequest
from llm_proxy.forwarding.request_checks import wants_websocket
from llm_proxy.forwarding.response_cache import ResponseSource, row_of_hit
from llm_proxy.forwarding.settlement import Settlement
from llm_proxy.forwarding.sockets import Sockets
from llm_proxy.forwarding.taps import Sendable, Tap, response_taps, tapped
from llm_proxy.forwarding.token_steps import TokenSteps
from llm_proxy.limits.rate_limiter import RateLimiter
from llm_proxy.logs import AccessLog
from llm_proxy.model.token import TokenSnapshot
from llm_proxy.runtime.tracebacks import drop_tracebacks
from llm_proxy.transport import Timeouts, Upstream, UpstreamRequest, UpstreamResponse
from llm_proxy.usage.budgets import Budgets

NO_CONTENT_STATUSES = frozenset((204, 304))  # RFC 9110 §6.4.1
_REPLACED = (REPLACED_WITH_CORRELATION,)
_REPLACED_FOR_BROWSERS = (REPLACED_WITH_CORRELATION, REPLACED_WITH_ORIGIN)
_log = logging.getLogger(__name__)


class Pipeline:
    """A worker's pipeline for one provider.

    Args:
        lane: The provider that requests go to, with what is its own.
        registry: The exchanges that run.
        settlement: Settles each of them at its end.
        access: Told of each request at level `debug`.
        is_draining: Whether new requests are refused.
        inspector: Reads request bodies and knows the parameter rules.
        limits: The windows of requests.
        steps: Steps 9 to 12.
        quota: Charges requests.
        budgets: Budgets of model tokens and money.
        cache: Stored responses.
        tap_factories: Make what watches the bytes of an exchange; each may refuse it.
        request_fields: Makes the provider's fields.
        upstream: Sends.
        timeouts: Limits of an exchange.
        cors: The fields that browsers need.
        render: From an error to a response's status, fields and body.
        max_request_bytes: MAX_REQUEST_SIZE; 0 = no limit.
        sockets: WebSockets; None where the provider file opens none.
        refuses_unseen: BUDGETS_REFUSE_UNSEEN.
    """

    def __init__(
        self,
        lane: Lane,
        *,
        registry: ExchangeRegistry,
        settlement: Settlement,
        access: AccessLog,
        is_draining: Callable[[], bool],
        inspector: Inspector,
        limits: RateLimiter,
        steps: TokenSteps,
        quota: Quota,
        budgets: Budgets,
        cache: ResponseSource,
        tap_factories: Sequence[Callable[[Exchange], Tap]],
        request_fields: RequestFields,
        upstream: Upstream,
        timeouts: Timeouts,
        cors: Cors,
        render: Callable[[LlmProxyError], tuple[str, Fields, bytes]],
        max_request_bytes: int = 0,
        sockets: Sockets | None = None,
        refuses_unseen: bool = False,
    ) -> None:
        provider = lane.provider
        self._lane, self._allowed, self._credentials = lane, lane.allowed, lane.credentials
        self._origin, self._base_path = provider.origin, provider.base_path.encode("latin-1")
        self._registry, self._settlement, self._access = registry, settlement, access
        self._is_draining, self._inspector, self._limits = is_draining, inspector, limits
        self._steps, self._quota, self._budgets, self._sockets = steps, quota, budgets, sockets
        self._cache = cache
        self._tap_factories, self._request_fields = tuple(tap_factories), request_fields
        self._upstream, self._timeouts = upstream, timeouts
        self._own = OwnResponses(cors, render)
        self._add_own = self._own.add_fields
        self._limit = Limit(max_request_bytes)
        self._refuses_unseen = refuses_unseen

    def handle(self, request: ProxyRequest) -> Reply:
        """Respond to a request, refusals included.

        Raises:
            ClientConnectionError: The client's connection failed; settled, and the server's to close.
        """
        if self._access.is_debug:
            self._log_start(request)
        if request.method == "OPTIONS" and not self._is_draining():
            return self._own.preflight(request)  # step 3; not counted
        exchange = self._begin(request)
        settle = self._settlement.settle
        try:
            body = self._admit(exchange)
            if exchange.kind == "websocket":
                return self._switch(exchange)
            return self._look_up(exchange, body) or self._forward(exchange, body)
        except ClientConnectionError as error:
            settle(exchange, error)
            raise
        except UpstreamCut as error:
            settle(exchange, error)
            raise ClientGone from error  # no client is there, or none shall be told: the server closes
        except Exception as error:
            reply = self._failed(exchange, error)
            drop_tracebacks(error)
            return reply
        except BaseException as error:  # the drain's cut
            settle(exchange, error)
            raise

    def _failed(self, exchange: Exchange, error: Exception) -> Reply:
        if isinstance(error, LlmProxyError):
            return self._stale(exchange, error) or self._refuse(exchange, error)
        _log.exception("a request failed", extra={"request_id": exchange.request.request_id})
        return self._refuse(exchange, LlmProxyError(), cause=error)

    def refresh(self, request: ProxyRequest, token: TokenSnapshot) -> None:
        """Fetch again what was served stale, as a request of the same token's behind which no client stands."""
        exchange = self._begin(request)
        exchange.token, exchange.is_usable = token, True
        try:
            self._cache.begin_refresh(exchange)
            for _ in self._forward(exchange, None).body:
                pass
        except LlmProxyError as error:
            self._settlement.settle(exchange, error)
            drop_tracebacks(error)
        except BaseException as error:
            self._settlement.settle(exchange, error)
            raise

    def close(self) -> None:
        """Close the connections to the provider."""
        self._upstream.close()

    # -- the steps ----------------------------------------------------------------------------------------------------

    def _begin(self, request: ProxyRequest) -> Exchange:
        """Step 1: the ids are the request's."""
        exchange = Exchange(request, self._lane)
        self._registry.live.add(exchange)
        return exchange

    def _admit(self, exchange: Exchange) -> Body | None:
        """Run steps 2 to 13: everything that is known before a response is looked for."""
        request, allowed, budgets = exchange.request, self._allowed, self._budgets
        if self._is_draining():  # 2
            raise Draining
        is_socket = "UPGRADE" in request.values and wants_websocket(request.all("UPGRADE"))
        if is_socket:
            sockets = self._check_socket(exchange)
        else:
            allowed.check_method(request.method)  # 4
            allowed.check_overrides(request.fields)
            allowed.check_endpoint(request.path)  # 5
        allowed.check_fields(request.fields)  # 6
        self._credentials.check_target(request.path, request.query)
        self._limit.check(request.content_length)  # 7
        self._limits.admit_address(request.client_addr)  # 8
        bearer = self._bearer_of_socket(request, sockets) if is_socket else self._credentials.bearer(request)
        token = self._steps.admit(exchange, bearer)  # 9 to 12
        named = self._steps.check_price if budgets.needs_price(token) else None
        if self._lane.models is not None:
            self._check_path_model(self._lane.models.readings(request.path), named)
        if is_socket:
            self._inspector.admit(_incoming(request)._replace(method="POST"), named=named)
            return None
        refuses_unseen = self._refuses_unseen and budgets.is_limited(token)
        if refuses_unseen and allowed.is_unseen(request.method, request.path):
            raise EndpointNotBudgeted
        must_hold = self._cache.begin(exchange)
        body = exchange.body = self._inspector.admit(  # 13
            _incoming(request), must_hold=must_hold, named=named, refuses_unseen=refuses_unseen
        )
        return body

    def _bearer_of_socket(self, request: ProxyRequest, sockets: Sockets) -> str:
        bearer = sockets.bearer(request)
        self._credentials.check_others(request, bearer)
        return bearer

    def _check_socket(self, exchange: Exchange) -> Sockets:
        """Run steps 4 and 5 of a WebSocket handshake. Raises UpgradeNotSupported where there is none."""
        request, sockets = exchange.request, self._sockets
        if sockets is None or request.client is None:
            raise UpgradeNotSupported
        self._allowed.check_handshake(request.method, request.path)
        exchange.kind = "websocket"
        sockets.check(request)
        return sockets

    def _check_path_model(self, readings: Sequence[str], named: Callable[[str], None] | None) -> None:
        """Check the model that a path names, in each of its readings, as if the body did."""
        for model in readings:
            self._inspector.check_model(model)
            if named is not None:
                named(model)

    def _look_up(self, exchange: Exchange, body: Body | None) -> Reply | None:
        """Step 14. A stored response costs no unit, but a token without any gets none."""
        stored = self._cache.lookup(exchange, body)
        if stored is None:
            return None
        token = exchange.known_token
        if token.max_requests is not None:
            self._quota.release(self._quota.reserve(token))
        exchange.served = row_of_hit(stored)
        return self._stored(exchange, stored)

    def _forward(self, exchange: Exchange, body: Body | None) -> Reply:
        """Run steps 15 to 18; step 19 is the settlement's."""
        token = exchange.known_token
        exchange.taps = [make(exchange) for make in self._tap_factories]
        enter(exchange)  # 15
        api_key = self._lane.key_of(token.project)
        if not api_key:
            raise UpstreamAuthError
        forward = self._outgoing(exchange, body, api_key)
        exchange.unit = self._quota.reserve(token)  # 16
        exchange.dispatched()
        response = self._upstream.send(forward, timeouts=self._timeouts, begun=exchange.attach)  # 17
        forward.fields, forward.body = [], None  # a long response must not hold its request
        try:
            return self._respond(exchange, response)  # 18
        except BaseException:
            response.close()
            raise

    def _switch(self, exchange: Exchange) -> Reply:
        """Run steps 15 to 18 of a WebSocket handshake, which costs no unit; its turns do."""
        sockets = self._sockets
        assert sockets is not None  # `_check_socket` has passed
        exchange.taps = [make(exchange) for make in self._tap_factories]
        enter(exchange)
        sockets.seat(exchange)
        api_key = self._lane.key_of(exchange.known_token.project)
        if not api_key:
            raise UpstreamAuthError
        forward = upgraded(self._outgoing(exchange, None, api_key))
        exchange.dispatched()
        response = self._upstream.send(forward, timeouts=self._timeouts, begun=exchange.attach)
        forward.fields = []
        try:
            if response.status != 101:
                return self._respond(exchange, response)
            fields, response.fields = response_fields(sockets.check_response(response.fields), _REPLACED).fields, []
            body = sockets.open(exchange, response)
            self._add_own(exchange, fields, [])
            return Reply(SWITCHING, [("Upgrade", "websocket"), *fields], body)
        except BaseException:
            response.close()
            raise

    def _outgoing(self, exchange: Exchange, body: Body | None, api_key: str) -> UpstreamRequest:
        """Return the request as the provider gets it."""
        request = exchange.request
        conditions = self._cache.conditions(exchange)
        sendable: Sendable = tapped(body, exchange.taps)
        fields = request.fields if exchange.kind == "request" else outgoing(request)
        if conditions:
            fields = [*fields, *conditions]
        return UpstreamRequest(
            request.method,
            self._base_path + request.target.encode("latin-1"),
            self._request_fields(
                fields,
                api_key=api_key,
                request_id=request.request_id,
                keeps_expect=isinstance(body, StreamedBody),
            ),
            self._origin,
            sendable,
        )

    # -- the provider's response --------------------------------------------------------------------------------------

    def _respond(self, exchange: Exchange, response: UpstreamResponse) -> Reply:
        """Step 18: the header section for the client, and the relay of the body."""
        is_for_browser = bool(exchange.request.values.get("ORIGIN"))
        passed = response_fields(response.fields, _REPLACED_FOR_BROWSERS if is_for_browser else _REPLACED)
        response.fields = []  # a long response need not hold them twice
        self._response_started(exchange, response, passed.is_event_stream)
        fields = passed.fields
        found = self._cache.on_response(exchange, response.status, response.reason, fields, is_framed=passed.is_framed)
        if isinstance(found, StoredResponse):
            return self._instead(exchange, response, found)
        self._add_own(exchange, fields, exchange.timing.fields())
        data_taps = response_taps(exchange.taps, response.status, fields)
        if found is not None:
            data_taps.append(found)
        # A body's last piece waits until the cache has stored it, and one of unknown length for the provider: the
        # header section need not.
        is_stream = passed.is_event_stream or found is not None or not passed.has_length
        relay = exchange.relay = Relay(
            response,
            partial(self._settlement.settle, exchange),
            has_content=exchange.request.method != "HEAD" and response.status not in NO_CONTENT_STATUSES,
            is_stream=is_stream,
            taps=data_taps,
        )
        return Reply(f"{response.status} {response.reason.decode('latin-1')}", fields, relay)

    def _response_started(self, exchange: Exchange, response: UpstreamResponse, is_stream: bool) -> None:
        if is_stream:
            response.no_total_limit()
        exchange.response_started(response.status, is_stream=is_stream)
        self._registry.open_streams += is_stream
        if exchange.unit is not None:
            self._quota.commit(exchange.unit)

    def _instead(self, exchange: Exchange, response: UpstreamResponse, stored: StoredResponse) -> Reply:
        """Return a stored response in place of the provider's: validated by it, or stale and better than its error."""
        if response.status in NO_CONTENT_STATUSES:
            for _ in response.chunks():
                pass  # there is none, and the connection can be used again
        response.close()
        return self._stored(exchange, stored)

    # -- responses of the proxy itself --------------------------------------------------------------------------------

    def _stored(self, exchange: Exchange, stored: StoredResponse, error: LlmProxyError | None = None) -> Reply:
        """Return a stored response; the exchange ends here, whether its bytes are taken or not."""
        exchange.sent_status = stored.status
        fields = stored.fields
        self._add_own(exchange, fields, exchange.timing.fields_of_stored())
        response_taps(exchange.taps, exchange.status, fields)
        self._settlement.settle(exchange, error, len(stored.content))
        return Reply(f"{stored.status} {stored.reason}", fields, (stored.content,) if stored.content else ())

    def _stale(self, exchange: Exchange, error: LlmProxyError) -> Reply | None:
        """Return a stale stored response in place of the provider's failure (stale-if-error)."""
        stored = self._cache.on_error(exchange, error)
        return None if stored is None else self._stored(exchange, stored, error)

    def _refuse(self, exchange: Exchange, error: LlmProxyError, *, cause: Exception | None = None) -> Reply:
        status, fields, body = self._own.refusal(exchange.request, error)
        self._settlement.settle(exchange, cause or error, len(body))
        return Reply(status, fields, (body,))

    def _log_start(self, request: ProxyRequest) -> None:
        agent = request.values.get("USER-AGENT")
        self._access.started(method=request.method, path=request.path, client_ip=request.client_addr, user_agent=agent)


def _incoming(request: ProxyRequest) -> Incoming:
    values = request.values
    return Incoming(
        method=request.method,
        query=request.query,
        content_type=values.get("CONTENT-TYPE"),
        content_encoding=request.content_encoding,
        source=request.body,
        length=request.content_length,
        waits=values.get("EXPECT", "").lower() == "100-continue",
    )
