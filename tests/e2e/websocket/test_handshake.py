"""Handshakes go through the usual steps; a refusal is a plain HTTP response."""

import json
from pathlib import Path

import pytest
from support.gateway import Gateway, Token, running_gateway
from support.provider import Provider
from support.sockets import REALTIME, opened, turn
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol


def refused(gateway: Gateway, token: Token, path: str = "/v1/responses") -> tuple[int, str, dict[str, str]]:
    """Status, code and fields of a handshake that is refused."""
    with pytest.raises(InvalidStatus) as refusal, opened(gateway, token, path):
        pass
    response = refusal.value.response
    return response.status_code, json.loads(response.body or b"{}").get("code", ""), dict(response.headers.raw_items())


def test_refusals_are_http(gateway: Gateway) -> None:
    """A wrong token is 401, a deactivated project 403, a path without WebSocket 426 with Upgrade."""
    good = gateway.token()
    assert refused(gateway, Token("", "", "sk-" + "x" * 22))[:2] == (401, "token_not_found")
    assert refused(gateway, gateway.token(is_active=False))[:2] == (401, "token_inactive")
    assert refused(gateway, gateway.token(gateway.project(is_active=False)))[0] == 403
    status, code, fields = refused(gateway, good, "/v1/chat/completions")
    assert (status, code, fields["Upgrade"]) == (426, "upgrade_not_supported", "HTTP/1.1")
    assert gateway.request_count(good) == 0


def test_sockets_of_a_token_are_bounded(gateway: Gateway) -> None:
    """Past WS_MAX_SOCKETS_PER_TOKEN a handshake is 429; a place is free again when a socket has ended."""
    token = gateway.token()
    sockets = [opened(gateway, token, legacy=True) for _ in range(12)]
    assert refused(gateway, token)[:2] == (429, "too_many_websockets")
    sockets.pop().close()
    gateway.wait_for_access(1, token_id=token.id, kind="websocket")
    with opened(gateway, token):
        pass
    for socket in sockets:
        socket.close()


def test_the_providers_refusal_passes(gateway: Gateway, provider: Provider, token: Token) -> None:
    """Its status and body are the client's, and no unit was spent."""
    provider.set_rules({"path": "/v1/responses", "status": 503, "times": 1})
    assert refused(gateway, token)[0] == 503
    provider.set_rules()
    assert gateway.request_count(token) == 0


def test_realtime_without_a_unit_is_refused_before_the_provider(gateway: Gateway, provider: Provider) -> None:
    """The reserve of the only open socket leaves none: the handshake of a second is 429, and no fault."""
    token = gateway.token(max_requests=1)
    with opened(gateway, token, REALTIME):
        before = len(provider.seen())
        assert refused(gateway, token, REALTIME)[:2] == (429, "rate_limit_exceeded")
        assert len(provider.seen()) == before
    gateway.wait_for_access(1, token_id=token.id, kind="websocket")
    assert gateway.request_count(token) == 0


def test_an_extension_that_was_not_offered_is_502(gateway: Gateway, provider: Provider, token: Token) -> None:
    """Frames of an unknown extension could not be read."""
    extension = {"Sec-WebSocket-Extensions": "permessage-deflate"}
    provider.set_rules({"path": "/v1/responses", "fields": extension, "times": 1})
    assert refused(gateway, token)[:2] == (502, "bad_gateway")
    provider.set_rules()


def test_a_browsers_token_in_a_subprotocol(gateway: Gateway, provider: Provider, token: Token) -> None:
    """It is taken, where that is allowed, never forwarded and never echoed."""
    protocols = [Subprotocol("realtime"), Subprotocol(f"openai-insecure-api-key.{token.bearer}")]
    url = f"ws{gateway.url.removeprefix('http')}{REALTIME}"
    with connect(url, subprotocols=protocols, compression=None) as socket:
        assert socket.subprotocol == "realtime"
        assert turn(socket)[-1]["type"] == "response.done"
    assert provider.seen()[-1].values("sec-websocket-protocol") == ["realtime"]
    assert gateway.request_count(token) == 1


def test_without_websockets_in_the_provider_file(tmp_path: Path, provider: Provider) -> None:
    """WebSocket is off by default, on both lanes: 426."""
    with running_gateway(tmp_path, provider.url, LLM_PROXY_FAST_LANE="false") as gateway:
        assert refused(gateway, gateway.token())[0] == 426
