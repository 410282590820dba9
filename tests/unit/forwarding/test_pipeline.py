"""The order of the steps, and endings that sockets bring about only by luck; parts that do I/O are stand-ins."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from support.pieces import UpstreamResponse
from support.snapshots import token_snapshot

from llm_proxy import errors, logs, metrics
from llm_proxy.forwarding.breaker import CircuitBreaker, ConcurrencyLimit
from llm_proxy.forwarding.cors import Cors
from llm_proxy.forwarding.exchange import ExchangeRegistry
from llm_proxy.forwarding.fields import RequestFields
from llm_proxy.forwarding.inspection import Inspector
from llm_proxy.forwarding.lane import Lane
from llm_proxy.forwarding.own_responses import Reply
from llm_proxy.forwarding.pipeline import Pipeline
from llm_proxy.forwarding.rejection_audit import RejectionAudit
from llm_proxy.forwarding.reporters import AccessReporter, report_metrics
from llm_proxy.forwarding.request import ProxyRequest
from llm_proxy.forwarding.request_checks import bearer_of
from llm_proxy.forwarding.response_cache import NoCache
from llm_proxy.forwarding.settlement import Settlement
from llm_proxy.forwarding.token_steps import TokenSteps
from llm_proxy.model.project import ProjectSnapshot
from llm_proxy.model.token import TokenSnapshot
from llm_proxy.providers import ParameterRules, load_provider
from llm_proxy.settings import load
from llm_proxy.transport import Timeouts
from llm_proxy.web.errors import render

BEARER = "sk-AbCdEfGhIjKlMnOpQrStUv"
FACTS = token_snapshot(max_requests=5)


class Directory:
    """Knows one token, or fails."""

    def __init__(self) -> None:
        self.facts: TokenSnapshot | Exception = FACTS

    def authenticate(self, bearer: str) -> TokenSnapshot:
        if isinstance(self.facts, Exception):
            raise self.facts
        return self.facts


class Quota:
    """Writes down what it is asked; refuses when told to."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.refusals: dict[str, Exception] = {}

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name in self.refusals:
            raise self.refusals[name]

    def check(self, token: Any) -> None:
        self._call("check")

    def reserve(self, token: Any) -> Any:
        self._call("reserve")
        return "unit"

    def commit(self, unit: Any) -> None:
        self._call("commit")

    def release(self, unit: Any) -> None:
        self._call("release")

    def touch(self, token: Any) -> None:
        self._call("touch")


class NoLimits:
    """No windows."""

    def admit_address(self, address: str | None) -> None: ...

    def admit_token(self, token: TokenSnapshot, bearer: str) -> None: ...


class NoBudgets:
    """No budgets."""

    def check_token(self, token: TokenSnapshot) -> None: ...

    def check_project(self, token: TokenSnapshot) -> None: ...

    def needs_price(self, token: TokenSnapshot) -> bool:
        return False


class Exchange:
    """Notes how it was cut."""

    why: str | None = None

    def cut(self, reason: str) -> None:
        self.why = self.why or reason


class Response(UpstreamResponse):
    """200 with three pieces, unless changed."""

    def __init__(self) -> None:
        super().__init__(b"ab", b"cd", b"ef")
        self.status, self.reason, self.fields = 200, b"OK", [(b"Content-Length", b"6")]

    def no_total_limit(self) -> None: ...


class Upstream:
    """Gives the response, or raises."""

    def __init__(self) -> None:
        self.response: Response | BaseException = Response()
        self.exchange = Exchange()
        self.sent: list[Any] = []
        self.fields: dict[bytes, bytes] = {}

    def send(self, forward: Any, *, timeouts: Timeouts, begun: Any) -> Any:
        self.sent.append(forward)
        self.fields = dict(forward.fields)  # the pipeline drops them once the head is there
        begun(self.exchange)
        if isinstance(self.response, BaseException):
            raise self.response
        return self.response


class Client:
    """A client that leaves when told."""

    def __init__(self) -> None:
        self.is_gone = False
        self.callback: Callable[[], None] = lambda: None

    def on_gone(self, callback: Any) -> None:
        self.callback = callback

    def unwatch(self) -> None:
        self.callback = lambda: None

    def leave(self) -> None:
        self.is_gone = True
        self.callback()


class World:
    """A pipeline and its stand-ins."""

    def __init__(self, **variables: str) -> None:
        settings = load({"MANAGEMENT_TOKEN": "x" * 20, **variables}).checked()
        provider = load_provider(settings).provider
        self.provider = replace(provider, param_whitelist={"model": ("gpt-4o",)})
        self.directory, self.quota, self.upstream, self.client = Directory(), Quota(), Upstream(), Client()
        self.audited: list[Any] = []
        self.is_draining = False
        self.registry, self.slots = ExchangeRegistry(), ConcurrencyLimit(1)
        self.breaker_s = 0.0
        self.breaker = CircuitBreaker(settings.upstream, lambda: self.breaker_s)
        access = logs.AccessLog("error")
        settlement = Settlement(
            self.registry,
            quota=self.quota,  # type: ignore[arg-type]
            reporters=[report_metrics, RejectionAudit(self).report, AccessReporter(access).report],
        )
        self._settlement, self._access = settlement, access
        self.lane = Lane(self.provider, slots=self.slots, breaker=self.breaker)
        self.make_pipeline()

    def make_pipeline(self) -> None:
        """Make it for the lane."""
        provider = self.lane.provider
        self.pipeline = Pipeline(
            self.lane,
            registry=self.registry,
            settlement=self._settlement,
            access=self._access,
            is_draining=lambda: self.is_draining,
            inspector=Inspector(ParameterRules(self.provider.param_whitelist), max_inspected_bytes=1 << 20),
            limits=NoLimits(),  # type: ignore[arg-type]
            steps=TokenSteps(
                self.lane,
                directory=self.directory,  # type: ignore[arg-type]
                quota=self.quota,  # type: ignore[arg-type]
                limits=NoLimits(),  # type: ignore[arg-type]
                budgets=NoBudgets(),  # type: ignore[arg-type]
            ),
            quota=self.quota,  # type: ignore[arg-type]
            budgets=NoBudgets(),  # type: ignore[arg-type]
            cache=NoCache(),
            tap_factories=(),
            request_fields=RequestFields(
                host="provider.example", client_auth=provider.client_auth, is_beside=provider.is_beside
            ),
            upstream=self.upstream,  # type: ignore[arg-type]
            timeouts=Timeouts(),
            cors=Cors(()),
            render=render,
            max_request_bytes=1000,
        )

    def offer(self, event: Any) -> None:
        self.audited.append(event)

    def ask(self, method: str = "POST", target: str = "/v1/chat/completions", **changes: Any) -> Reply:
        body = changes.pop("body", b'{"model":"gpt-4o"}')
        fields = {"HOST": "proxy", "AUTHORIZATION": f"Bearer {BEARER}", "CONTENT-TYPE": "application/json"}
        fields |= {"CONTENT-LENGTH": str(len(body))}
        fields |= {name.replace("_", "-"): value for name, value in changes.items()}
        pairs = [(name, value) for name, value in fields.items() if value is not None]
        request = ProxyRequest(method, target, pairs, body=io.BytesIO(body), client=self.client)
        return self.pipeline.handle(request)


@pytest.fixture
def world() -> World:
    """A fresh one."""
    return World()


def code(reply: Reply) -> str:
    """The error's code."""
    return str(json.loads(b"".join(reply.body))["code"])


def up(outcome: str) -> float:
    """The counter."""
    return float(metrics.upstream_requests[outcome]._value.get())


BROKEN: list[tuple[str, Any]] = [
    ("draining", lambda world, asked: setattr(world, "is_draining", True)),
    ("upgrade_not_supported", lambda world, asked: asked.update(UPGRADE="websocket")),
    ("method_not_allowed", lambda world, asked: asked.update(method="DELETE")),
    ("endpoint_not_found", lambda world, asked: asked.update(target="/v1/nothing")),
    ("request_too_large", lambda world, asked: asked.update(CONTENT_LENGTH="1001")),
    ("invalid_token", lambda world, asked: asked.update(AUTHORIZATION=None)),
    ("project_inactive", lambda world, asked: setattr(world.directory, "facts", _inactive())),
    ("rate_limit_exceeded", lambda world, asked: world.quota.refusals.update(check=errors.QuotaExhausted())),
    ("param_not_allowed", lambda world, asked: asked.update(body=b'{"model":"other"}')),
    ("overloaded", lambda world, asked: world.slots.take()),
    ("service_unavailable", lambda world, asked: world.quota.refusals.update(reserve=errors.ServiceUnavailable())),
]


def _inactive() -> TokenSnapshot:
    return replace(FACTS, project=ProjectSnapshot("project-id", False, "provider-key"))


@pytest.mark.parametrize("first", range(len(BROKEN)), ids=[name for name, _ in BROKEN])
def test_the_first_step_that_refuses_is_answered(world: World, first: int) -> None:
    """With everything wrong from one step on, that step's error is the response, and nothing is sent."""
    asked: dict[str, Any] = {}
    for name, spoil in BROKEN[first:]:
        if name != "request_too_large" or first <= 4:
            spoil(world, asked)
    reply = world.ask(**asked)
    assert code(reply) == BROKEN[first][0]
    assert world.upstream.sent == []
    assert not world.registry.live


@pytest.mark.parametrize(
    ("rest", "param"),
    [
        (f"?key={BEARER}", "key"),
        (f"?a=1&api_key=%73k-{BEARER[3:]}", "api_key"),
        (f"?x=Bearer+{BEARER}", "x"),
        (f"?{BEARER}", "query"),
        (f"/{BEARER}", "path"),
        (f"/a:%73k-{BEARER[3:]}/cancel?a=1", "path"),
    ],
)
def test_a_token_in_the_address_is_refused(world: World, rest: str, param: str) -> None:
    """The response names the parameter and the field to use, never the token; nothing is sent."""
    reply = world.ask(target=f"/v1/chat/completions{rest}")
    content = b"".join(reply.body).decode()
    error = json.loads(content)["error"]
    assert (reply.status[:3], error["code"], error["param"]) == ("400", "token_in_query", param)
    assert "Authorization" in error["message"]
    assert BEARER not in content
    assert world.upstream.sent == []


@pytest.mark.parametrize("upgrade", ["h2c", "TLS/1.0", "foo, bar", ""])
def test_an_upgrade_to_something_else_is_ignored(world: World, upgrade: str) -> None:
    """RFC 9110 §7.8: JDK clients and `curl --http2` offer h2c on plain http."""
    assert (
        world.ask(UPGRADE=upgrade, CONNECTION="Upgrade, HTTP2-Settings", HTTP2_SETTINGS="AAMAAABk").status == "200 OK"
    )
    names = world.upstream.fields.keys()
    assert b"Host" in names
    assert names.isdisjoint((b"Upgrade", b"Http2-Settings", b"Connection"))


@pytest.mark.parametrize("upgrade", ["websocket", "h2c, WebSocket", "websocket/13"])
def test_a_websocket_is_426(world: World, upgrade: str) -> None:
    """With the field that RFC 9110 §15.5.22 wants: clients fall back to HTTP at once."""
    reply = world.ask(UPGRADE=upgrade, CONNECTION="Upgrade")
    assert (reply.status, code(reply)) == ("426 Upgrade Required", "upgrade_not_supported")
    assert {("Upgrade", "HTTP/1.1"), ("Connection", "Upgrade")} <= set(reply.fields)


def test_a_request_that_passes_is_charged_once(world: World) -> None:
    """peek, take, and sent when the head is there; the slot comes back when the body is whole."""
    reply = world.ask()
    assert world.slots.taken == 1
    assert b"".join(reply.body) == b"abcdef"
    assert (world.quota.calls, world.slots.taken) == (["check", "reserve", "commit"], 0)
    assert not world.registry.live


@pytest.mark.parametrize("refused", ["check", "reserve"])
def test_a_used_up_quota_does_not_move_last_used(world: World, refused: str) -> None:
    """Refused with 403, and an audit record is written."""
    world.quota.refusals[refused] = errors.QuotaExhausted()
    assert code(world.ask()) == "rate_limit_exceeded"
    assert "touch" not in world.quota.calls
    assert [event.action for event in world.audited] == ["token.access"]


@pytest.mark.parametrize("spoilt", ["param", "key", "slots", "circuit", "database"])
def test_whatever_fails_after_the_token_was_good_counts_as_use(world: World, spoilt: str) -> None:
    """A4: refused after step 12, the token was used all the same."""
    asked: dict[str, Any] = {}
    if spoilt == "param":
        asked["body"] = b'{"model":"other"}'
    elif spoilt == "key":
        world.directory.facts = replace(FACTS, project=ProjectSnapshot("project-id", True, None))
    elif spoilt == "slots":
        world.slots.take()
    elif spoilt == "circuit":
        for _ in range(5):
            world.breaker.leave("unreachable", lambda: ("", ""))
    else:
        world.quota.refusals["reserve"] = errors.ServiceUnavailable()
    reply = world.ask(**asked)
    b"".join(reply.body)
    assert world.quota.calls[-1] == "touch"
    assert world.upstream.sent == []


def test_an_unknown_project_state_is_audited(world: World) -> None:
    """503, and an audit record with the result error."""
    world.directory.facts = errors.ServiceUnavailable()
    reply = world.ask()
    assert (reply.status[:3], code(reply), ("Retry-After", "1") in reply.fields) == ("503", "service_unavailable", True)
    (event,) = world.audited
    assert (event.action, event.outcome, event.details["reason"]) == ("proxy_request", "error", "service_unavailable")


def test_a_fault_before_dispatch_is_500_without_detail(world: World) -> None:
    """An error of the proxy before dispatch."""
    world.directory.facts = KeyError("secret detail")
    before = metrics.rejected("internal_error")._value.get()
    reply = world.ask()
    assert (reply.status, code(reply)) == ("500 Internal Server Error", "internal_error")
    assert metrics.rejected("internal_error")._value.get() == before + 1


def test_a_fault_after_dispatch_keeps_the_charge(world: World) -> None:
    """Dispatched, so the unit stays spent and up{aborted} moves."""
    world.upstream.response = KeyError("ours")
    before = up("aborted")
    assert code(world.ask()) == "internal_error"
    assert (world.quota.calls, up("aborted") - before) == (["check", "reserve", "commit"], 1)


def test_a_connect_failure_returns_the_unit(world: World) -> None:
    """The provider is not reached."""
    world.upstream.response = errors.UpstreamConnectError()
    assert code(world.ask()) == "bad_gateway"
    assert world.quota.calls == ["check", "reserve", "release"]


def test_a_client_that_leaves_while_connecting_is_charged_nothing(world: World) -> None:
    """The server closes without a response."""
    world.upstream.response = errors.UpstreamCut("client gone").at("connect", is_sent=False)
    with pytest.raises(errors.ClientGone):
        world.ask()
    assert world.quota.calls == ["check", "reserve", "release"]


def test_a_client_that_leaves_in_mid_stream_cuts_the_exchange(world: World) -> None:
    """The transport is told at once, from the hub."""
    reply = world.ask()
    pieces = iter(reply.body)
    next(pieces)
    world.client.leave()
    assert world.upstream.exchange.why == "client gone"
    before = up("client_gone")
    reply.body.close()  # type: ignore[attr-defined]
    assert up("client_gone") == before + 1


@pytest.mark.parametrize(("reason", "label"), [("drain", "aborted"), ("revoked", "aborted")])
def test_cuts_of_ours_are_told_apart(world: World, reason: str, label: str) -> None:
    """By the drain or an operator: the reason of the cut, not what failed by it."""
    reply = world.ask()
    pieces = iter(reply.body)
    next(pieces)
    world.registry.cut(reason)
    before = up(label)
    reply.body.close()  # type: ignore[attr-defined]
    assert (world.upstream.exchange.why, up(label) - before) == (reason, 1)


def test_a_head_request_settles_without_a_body(world: World) -> None:
    """The body is not iterated; close alone settles the exchange as completed."""
    before = up("2xx")
    reply = world.ask("HEAD", "/v1/models", CONTENT_LENGTH=None)
    reply.body.close()  # type: ignore[attr-defined]
    assert up("2xx") == before + 1


def test_a_neutral_probe_frees_the_way_for_the_next(world: World) -> None:
    """A probe that is refused by the quota neither opens nor closes the circuit."""
    for _ in range(5):
        world.breaker.leave("fail", lambda: ("/v1/chat/completions/", "gpt-4o"))
    world.breaker_s = 100.0
    world.quota.refusals["reserve"] = errors.QuotaExhausted()
    b"".join(world.ask().body)
    world.quota.refusals.clear()
    assert b"".join(world.ask().body) == b"abcdef"
    assert not world.breaker.is_open


def test_the_base_path_stands_before_the_target(world: World) -> None:
    """The base path comes first, and the query is unchanged."""
    world.pipeline._base_path = b"/base"
    world.ask(target="/v1/chat/completions?a=%2F")
    assert world.upstream.sent[0].target == b"/base/v1/chat/completions?a=%2F"


@pytest.mark.parametrize(
    "lines",
    [[], ["Bearer"], ["Bearer "], ["Basic abc"], ["sk-abc"], ["Bearer a", "Bearer a"]],
    ids=["none", "bare", "empty", "basic", "raw", "twice"],
)
def test_what_is_no_bearer(lines: list[str]) -> None:
    """Several lines, other schemes and empty values are no bearer."""
    with pytest.raises(errors.InvalidToken) as caught:
        bearer_of(lines)
    assert caught.value.description == "missing or invalid authorization header"


@pytest.mark.parametrize("line", ["Bearer abc", "bearer abc", "BEARER   abc  "])
def test_what_is_a_bearer(line: str) -> None:
    """The scheme in any case, blanks around the rest dropped."""
    assert bearer_of([line]) == "abc"


# -- several providers ------------------------------------------------------------------------------------------------

OTHER = "sk-0123456789abcdefghijkl"


def beside(world: World, **changes: Any) -> World:
    """The world's provider as one that is mounted beside a default one."""
    provider = replace(
        world.provider, name="other", mount="/other", client_auth=("X-API-KEY", "AUTHORIZATION"), **changes
    )
    world.lane = Lane(provider, slots=world.slots, breaker=world.breaker, is_default=False, has_neighbours=True)
    world.make_pipeline()
    return world


def with_key(**facts: Any) -> TokenSnapshot:
    """A token whose project has a key for the provider."""
    project = ProjectSnapshot("project-id", True, "provider-key", provider_keys={"other": "other-key"})
    return replace(FACTS, project=project, **facts)


@pytest.mark.parametrize(
    "fields",
    [
        {"X_API_KEY": BEARER, "AUTHORIZATION": None},
        {"X_API_KEY": f"Bearer {BEARER}", "AUTHORIZATION": None},
        {"X_API_KEY": BEARER},
        {"X_API_KEY": "dummy"},
        {"X_API_KEY": BEARER, "AUTHORIZATION": "Basic Zm9v"},
        {},
    ],
    ids=["native", "with scheme", "both", "only one is a token", "beside basic", "authorization"],
)
def test_a_token_is_found_in_the_providers_fields(world: World, fields: dict[str, Any]) -> None:
    """The provider gets its own key, and none of the fields that may have carried the caller's token."""
    beside(world).directory.facts = with_key()
    assert world.ask(**fields).status == "200 OK"
    sent = world.upstream.fields
    assert sent[b"Authorization"] == b"Bearer other-key"
    assert b"X-Api-Key" not in sent
    assert BEARER.encode() not in b"".join(sent.values())


@pytest.mark.parametrize(
    ("facts", "asked", "status", "said"),
    [
        (with_key(), {"X_API_KEY": OTHER}, "401 Unauthorized", "ambiguous_credentials"),
        (with_key(providers=("openai",)), {}, "403 Forbidden", "provider_not_allowed"),
        (FACTS, {}, "403 Forbidden", "provider_not_configured"),
        (with_key(), {"target": "/v1/chat/completions?key=AIzaSomething"}, "400 Bad Request", "token_in_query"),
        (with_key(), {"AUTHORIZATION": None}, "401 Unauthorized", "invalid_token"),
    ],
)
def test_what_a_provider_beside_others_refuses(
    world: World, facts: TokenSnapshot, asked: dict[str, Any], status: str, said: str
) -> None:
    """Before anything is sent."""
    beside(world).directory.facts = facts
    reply = world.ask(**asked)
    assert (reply.status, code(reply)) == (status, said)
    assert world.upstream.sent == []


def test_a_token_may_name_the_provider(world: World) -> None:
    """Among others."""
    beside(world).directory.facts = with_key(providers=("openai", "other"))
    assert world.ask().status == "200 OK"


@pytest.mark.parametrize(
    ("path", "is_allowed"),
    [
        ("/v1/models/gpt-4o:generate", True),
        ("/v1/models/gpt-4o%3Agenerate", True),
        ("/v1/models/other:generate", False),
        ("/v1/models/other%3Agenerate", False),
        ("/v1/models/%6Fther:generate", False),
        ("/v1/models/gpt-4o%2Fother:generate", False),
    ],
)
def test_the_model_in_the_path_is_checked(world: World, path: str, is_allowed: bool) -> None:
    """As the body's is, however it is written."""
    beside(world, model_from=("/v1/models/{model}:*", "/v1/models/gpt-4o/{model}:*")).directory.facts = with_key()
    reply = world.ask(target=path, body=b'{"contents":[]}')
    assert (reply.status == "200 OK") is is_allowed
    assert is_allowed or code(reply) == "param_not_allowed"
