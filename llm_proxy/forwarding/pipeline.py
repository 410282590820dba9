"""One request's way through the proxy: the steps of data-plane §2.1, in their order.

Nothing is remembered between requests here; what a worker knows lives in the parts that it is wired from. A step that
refuses raises the error that is answered.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol
from urllib.parse import unquote_plus

from llm_proxy.cache.engine import Served
from llm_proxy.errors import (
    CircuitOpen,
    ClientConnectionError,
    ClientGone,
    Draining,
    InvalidToken,
    LlmProxyError,
    ProjectInactive,
    TokenInQuery,
    UpgradeNotSupported,
    UpstreamAuthError,
    UpstreamCut,
    UpstreamError,
)
from llm_proxy.forwarding.body import HeldBody, StreamedBody, check_declared
from llm_proxy.forwarding.caching import Caching
from llm_proxy.forwarding.cors import Cors
from llm_proxy.forwarding.fields import (
    REPLACED_WITH_CORRELATION,
    REPLACED_WITH_ORIGIN,
    RequestFields,
    answer_fields,
)
from llm_proxy.forwarding.inspection import Body, Incoming, Inspector
from llm_proxy.forwarding.recording import Recorder, Sendable, meter_request, tap_request
from llm_proxy.forwarding.relay import Relay, Tap
from llm_proxy.forwarding.request import ProxyRequest
from llm_proxy.forwarding.settle import Books, Settlement
from llm_proxy.model.token import TokenSnapshot
from llm_proxy.providers import AllowList, Provider
from llm_proxy.tokens.bearer import hint_of_unknown, is_in
from llm_proxy.tokens.directory import TokenDirectory
from llm_proxy.transport import Answer, Forward, Timeouts, Upstream
from llm_proxy.usage.meter import Meter

Fields = list[tuple[str, str]]
NO_CONTENT_STATUSES = frozenset((204, 304))  # RFC 9110 §6.4.1
_REPLACED = (REPLACED_WITH_CORRELATION,)
_REPLACED_FOR_BROWSERS = (REPLACED_WITH_CORRELATION, REPLACED_WITH_ORIGIN)
_log = logging.getLogger(__name__)


class Reply(NamedTuple):
    """What goes to the client. `body` has a `close` where something has to be settled."""

    status: str
    fields: Fields
    body: Iterable[bytes]


class LimitGate(Protocol):
    """Windows of requests (steps 8 and 12). Raises RateLimitExceeded."""

    def admit_address(self, address: str | None) -> None:
        """Step 8: the client's address, then everybody."""

    def admit_token(self, token: TokenSnapshot, bearer: str) -> None:
        """Step 12: the token's window, then its project's."""


class BudgetGate(Protocol):
    """Budgets of model tokens and money (steps 11 to 13)."""

    def check_token(self, token: TokenSnapshot) -> None:
        """Step 11. Raises TokenBudgetExceeded, CostBudgetExceeded."""

    def check_project(self, token: TokenSnapshot) -> None:
        """Step 12. Raises CostBudgetExceeded, ServiceUnavailable."""

    def needs_price(self, token: TokenSnapshot) -> bool:
        """Whether money limits this token."""

    def check_model(self, model: str) -> None:
        """Step 13, where it does. Raises ModelNotPriced."""


class NoLimits:
    """No windows."""

    def admit_address(self, address: str | None) -> None:
        """Let everybody through."""

    def admit_token(self, token: TokenSnapshot, bearer: str) -> None:
        """Let every token through."""


class Pipeline:
    """A worker's pipeline for its one provider.

    Args:
        provider: Whom requests go to.
        books: What the exchanges share.
        directory: Knows tokens.
        upstream: Sends.
        inspector: Reads request bodies and knows the parameter rules.
        max_request_bytes: MAX_REQUEST_SIZE; 0 = no limit.
        cors: What browsers are told.
        request_fields: Makes the provider's fields.
        timeouts: Limits of an exchange.
        is_draining: Whether new requests are refused.
        render: From an error to an answer's fields and body.
        enforce_project_active: LLM_PROXY_ENFORCE_PROJECT_ACTIVE.
        recorder: Makes events; None: nothing is captured.
        limits: The windows.
        caching: The response cache; None: HTTP_CACHE_ENABLED is off.
        budgets: Budgets; None: there are none.
        meter: Counts what exchanges used; None: nobody does.
    """

    def __init__(
        self,
        provider: Provider,
        books: Books,
        *,
        directory: TokenDirectory,
        upstream: Upstream,
        inspector: Inspector,
        cors: Cors,
        request_fields: RequestFields,
        timeouts: Timeouts,
        is_draining: Callable[[], bool],
        render: Callable[[LlmProxyError], tuple[str, Fields, bytes]],
        max_request_bytes: int = 0,
        enforce_project_active: bool = True,
        recorder: Recorder | None = None,
        limits: LimitGate | None = None,
        caching: Caching | None = None,
        budgets: BudgetGate | None = None,
        meter: Meter | None = None,
    ) -> None:
        self._recorder = recorder
        self._allowed = AllowList(provider)
        self._origin, self._base_path = provider.origin, provider.base_path.encode("latin-1")
        self._books, self._directory, self._upstream = books, directory, upstream
        self._inspector, self._cors, self._request_fields = inspector, cors, request_fields
        self._max_request_bytes = max_request_bytes
        self._timeouts, self._is_draining, self._render = timeouts, is_draining, render
        self._enforces_project = enforce_project_active
        self._limits, self._caching = limits or NoLimits(), caching
        self._budgets, self._meter = budgets, meter
        if caching is not None:
            caching.refresh = self.refresh

    def handle(self, request: ProxyRequest) -> Reply:
        """Answer a request, refusals included.

        Raises:
            ClientConnectionError: The client's connection failed; settled, and the server's to close.
        """
        if self._books.access.is_debug:
            self._started(request)
        if request.method == "OPTIONS" and not self._is_draining():
            return self._preflight(request)  # step 3; not counted
        settlement = Settlement(self._books, request)
        try:
            body = self._admit(settlement)
            stored = self._look_up(settlement, body)  # step 14
            return stored or self._exchange(settlement, body)
        except ClientConnectionError as error:
            settlement.end(error)
            raise
        except UpstreamCut as error:
            settlement.end(error)
            raise ClientGone from error  # nobody is there, or nobody shall be told: the server closes
        except LlmProxyError as error:
            return self._stale(settlement, error) or self._refuse(settlement, error)
        except Exception as error:
            _log.exception("a request failed", extra={"request_id": request.request_id})
            return self._refuse(settlement, LlmProxyError(), cause=error)
        except BaseException as error:  # the drain's cut
            settlement.end(error)
            raise

    def _started(self, request: ProxyRequest) -> None:
        agent = request.values.get("USER-AGENT")
        self._books.access.started(
            method=request.method, path=request.path, client_ip=request.client_addr, user_agent=agent
        )

    # -- the steps ----------------------------------------------------------------------------------------------------

    def _admit(self, settlement: Settlement) -> Body | None:
        """Steps 2 to 13. Step 1, the ids, is ProxyRequest's; the inbound fields of DP-53 are never forwarded."""
        request, allowed = settlement.request, self._allowed
        if self._is_draining():  # 2
            raise Draining
        if "UPGRADE" in request.values and wants_websocket(request.all("UPGRADE")):
            raise UpgradeNotSupported
        allowed.check_method(request.method)  # 4
        allowed.check_endpoint(request.path)  # 5
        allowed.check_fields(request.fields)  # 6
        if request.query:
            check_query(request.query)
        check_declared(request.content_length, self._max_request_bytes)  # 7
        self._limits.admit_address(request.client_addr)  # 8
        bearer = bearer_of(request.all("AUTHORIZATION"))
        token = self._authenticate(settlement, bearer)  # 9
        if self._enforces_project and not token.project.is_active:  # 10
            raise ProjectInactive
        budgets = self._budgets
        self._books.admission.peek(token)  # 11
        if budgets is not None:
            budgets.check_token(token)
        self._limits.admit_token(token, bearer)  # 12
        if budgets is not None:
            budgets.check_project(token)
        settlement.is_usable = True
        must_hold, named = False, None
        if budgets is not None and budgets.needs_price(token):
            named = budgets.check_model
        if self._caching is not None:
            use = settlement.cache = self._caching.begin(request)
            must_hold = use.asked is not None
        body = self._inspector.admit(_incoming(request), must_hold=must_hold, named=named)  # 13
        settlement.body = body
        return body

    def _authenticate(self, settlement: Settlement, bearer: str) -> TokenSnapshot:
        try:
            token = settlement.token = self._directory.authenticate(bearer)
        except LlmProxyError:
            settlement.bearer_hint = hint_of_unknown(bearer)
            raise
        return token

    def _look_up(self, settlement: Settlement, body: Body | None) -> Reply | None:
        """Step 14. A stored answer costs no unit, but a token without any gets none."""
        if self._caching is None or settlement.token is None:
            return None
        served = self._caching.look_up(settlement, body)
        if served is None:
            return None
        if settlement.token.max_requests is not None:
            admission = self._books.admission
            admission.refund(admission.take(settlement.token))
        self._caching.hit(settlement, served)
        return self._stored(settlement, served, "conditional-hit" if served.is_conditional else "hit")

    def _stale(self, settlement: Settlement, error: LlmProxyError) -> Reply | None:
        """A stale stored answer in place of what went wrong with the provider (stale-if-error)."""
        if self._caching is None or not isinstance(error, UpstreamError | CircuitOpen):
            return None
        served = self._caching.failed(settlement)
        return None if served is None else self._stored(settlement, served, "hit", error)

    def _exchange(self, settlement: Settlement, body: Body | None) -> Reply:
        """Steps 15 to 18; step 19 is the settlement's."""
        if self._recorder is not None:
            self._recorder.check()
        settlement.enter()  # 15
        token = settlement.token
        api_key = token.project.api_key if token is not None else None
        if not api_key:
            raise UpstreamAuthError
        request = settlement.request
        sendable: Sendable = body.sendable() if isinstance(body, HeldBody) else body
        if self._recorder is not None and token is not None:
            settlement.capture = self._recorder.begin(request, token)
            sendable = tap_request(body, settlement.capture)
        if self._meter is not None and token is not None:
            metered = settlement.metered = self._meter.begin(
                token, request.method, request.path, request.values.get("CONTENT-TYPE")
            )
            sendable = meter_request(sendable, metered)
        forward = Forward(
            request.method,
            self._base_path + request.target.encode("latin-1"),
            self._request_fields(
                self._conditional(settlement),
                api_key=api_key,
                request_id=request.request_id,
                keeps_expect=isinstance(body, StreamedBody),
            ),
            self._origin,
            sendable,
        )
        settlement.take()  # 16
        settlement.dispatched()
        answer = self._upstream.send(forward, timeouts=self._timeouts, begun=settlement.begun)  # 17
        forward.fields, forward.body = [], None  # the answer refers to its request: a long one need not hold all of it
        try:
            return self._relay(settlement, answer)
        except BaseException:
            answer.close()
            raise

    @staticmethod
    def _conditional(settlement: Settlement) -> Sequence[tuple[str, str]]:
        """The client's fields, with the validators of the stored answer that is to be validated."""
        fields, use = settlement.request.fields, settlement.cache
        conditions = use.inquiry.conditions() if use is not None and use.inquiry is not None else ()
        return [*fields, *conditions] if conditions else fields

    def _relay(self, settlement: Settlement, answer: Answer) -> Reply:
        """Step 18."""
        request = settlement.request
        origin = request.values.get("ORIGIN")
        passed = answer_fields(answer.fields, _REPLACED_FOR_BROWSERS if origin else _REPLACED)
        answer.fields = []  # a long answer need not hold them twice
        if passed.is_event_stream:
            answer.no_total_limit()
        settlement.answered(answer.status, is_stream=passed.is_event_stream)
        fields, taps = passed.fields, list[Tap]()
        if settlement.metered is not None:
            tap = settlement.metered.answered(answer.status, *_content(fields))
            if tap is not None:
                taps.append(tap)
        marks: Iterable[tuple[str, str]] = ()
        is_captured = False
        if self._caching is not None:
            reaction = self._caching.answered(settlement, answer.status, answer.reason.decode("latin-1"), fields)
            if reaction is not None and reaction.served is not None:
                return self._instead(settlement, answer, reaction.served)
            if reaction is not None and reaction.capture is not None:
                reaction.is_framed(passed.is_framed)
                taps.append(reaction.capture)
                is_captured = True  # its last piece waits until it is stored: the head need not
            marks = self._caching.marks(settlement, reaction)
        fields.append(("X-Proxy", "llm-proxy"))
        fields += self._ids(request)
        fields += settlement.stamps.fields()
        if origin:
            fields += self._cors.answer(origin)
        fields += marks
        if settlement.capture is not None:
            settlement.capture.response_head(fields)
            taps.append(settlement.capture.response_chunk)
        relay = Relay(
            answer,
            settlement.end,
            has_content=request.method != "HEAD" and answer.status not in NO_CONTENT_STATUSES,
            is_stream=passed.is_event_stream or is_captured or not passed.has_length,
            taps=taps,
        )
        return Reply(f"{answer.status} {answer.reason.decode('latin-1')}", fields, relay)

    def _instead(self, settlement: Settlement, answer: Answer, served: Served) -> Reply:
        """A stored answer in place of the provider's: validated by it, or stale and better than its error."""
        if answer.status in NO_CONTENT_STATUSES:
            for _ in answer.chunks():
                pass  # there is none, and the connection can be used again
        answer.close()
        return self._stored(settlement, served, "hit" if settlement.is_stale_served else "revalidated")

    def refresh(self, request: ProxyRequest, token: TokenSnapshot) -> None:
        """Fetch anew what was served stale, as a request of the same token's behind which no client stands."""
        settlement = Settlement(self._books, request)
        settlement.token, settlement.is_usable = token, True
        try:
            assert self._caching is not None
            self._caching.prepare(settlement)
            for _ in self._exchange(settlement, None).body:
                pass
        except LlmProxyError as error:
            settlement.end(error)
        except BaseException as error:
            settlement.end(error)
            raise

    # -- answers of ours ----------------------------------------------------------------------------------------------

    def _stored(self, settlement: Settlement, served: Served, word: str, error: LlmProxyError | None = None) -> Reply:
        """A stored answer; the exchange ends here, whoever takes the bytes."""
        assert self._caching is not None
        request = settlement.request
        settlement.answered_status = served.status
        fields = served.fields
        fields.append(("X-Proxy", "llm-proxy"))
        fields += self._ids(request)
        fields += settlement.stamps.fields_of_stored()
        fields += self._caching.served_marks(settlement, word)
        origin = request.values.get("ORIGIN")
        if origin:
            fields += self._cors.answer(origin)
        if settlement.capture is not None:
            settlement.capture.response_head(fields)
        settlement.end(error, len(served.content))
        return Reply(f"{served.status} {served.reason}", fields, (served.content,) if served.content else ())

    def _preflight(self, request: ProxyRequest) -> Reply:
        fields = self._ids(request)
        asked = request.values.get("ACCESS-CONTROL-REQUEST-HEADERS")
        fields += self._cors.preflight(request.values.get("ORIGIN"), asked)
        return Reply("204 No Content", fields, ())

    def _refuse(self, settlement: Settlement, error: LlmProxyError, *, cause: Exception | None = None) -> Reply:
        status, fields, body = self._render(error)
        fields += self._ids(settlement.request)
        fields += self._cors.answer(settlement.request.values.get("ORIGIN"))
        settlement.end(cause or error, len(body))
        return Reply(status, fields, (body,))

    @staticmethod
    def _ids(request: ProxyRequest) -> Fields:
        return [("X-Request-ID", request.request_id), ("X-Correlation-ID", request.correlation_id)]


def bearer_of(authorization: list[str]) -> str:
    """The bearer of a request's Authorization lines. Raises InvalidToken: none, several, or another scheme."""
    if len(authorization) == 1:
        scheme, _, bearer = authorization[0].strip().partition(" ")
        bearer = bearer.strip()
        if scheme.lower() == "bearer" and bearer:
            return bearer
    raise InvalidToken(description="missing or invalid authorization header")


def check_query(query: str) -> None:
    """Raise TokenInQuery, naming the parameter that holds a token of ours."""
    for pair in query.split("&"):
        if is_in(unquote_plus(pair)):
            raise TokenInQuery(param=shown_name(pair.partition("=")[0]))


def shown_name(raw: str) -> str:
    """A parameter's name as it may be shown; the token itself can stand there."""
    name = unquote_plus(raw)
    return "query" if is_in(name) else name[:64]


def wants_websocket(upgrade: list[str]) -> bool:
    """Whether WebSocket is among the protocols asked for; others may be ignored (RFC 9110 §7.8)."""
    protocols = (protocol for line in upgrade for protocol in line.split(","))
    return any(protocol.partition("/")[0].strip().lower() == "websocket" for protocol in protocols)


def _incoming(request: ProxyRequest) -> Incoming:
    values = request.values
    return Incoming(
        method=request.method,
        query=request.query,
        content_type=values.get("CONTENT-TYPE"),
        content_encoding=",".join(request.all("CONTENT-ENCODING")),
        source=request.body,
        length=request.content_length,
        waits=values.get("EXPECT", "").lower() == "100-continue",
    )


def _content(fields: Fields) -> tuple[str, str]:
    """Content-Type and Content-Encoding; empty where there is none."""
    media_type = encoding = ""
    for name, value in fields:
        if name[:8] in ("Content-", "content-"):
            lowered = name.lower()
            if lowered == "content-type":
                media_type = value
            elif lowered == "content-encoding":
                encoding = value
    return media_type, encoding
