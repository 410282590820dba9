"""A provider and a proxy before it, shared by the tests of a module; each test brings its own tokens."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.gateway import Gateway, Token, running_gateway
from support.provider import Provider

CHAT = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}).encode()
STREAM = json.dumps({"model": "gpt-4o", "stream": True, "messages": [{"role": "user", "content": "hello"}]}).encode()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, provider: Provider) -> Iterator[Gateway]:
    """The proxy with one worker and short limits."""
    with running_gateway(tmp_path_factory.mktemp("gateway"), provider.url, **SHORT_LIMITS, **EVENTS) as running:
        yield running


@pytest.fixture(scope="module", params=["fast", "slow"])
def lane_gateway(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, provider: Provider
) -> Iterator[Gateway]:
    """The proxy on its fast lane, then through Flask's own dispatch."""
    folder: Path = tmp_path_factory.mktemp(f"gateway-{request.param}")
    lane = "true" if request.param == "fast" else "false"
    with running_gateway(folder, provider.url, LLM_PROXY_FAST_LANE=lane, **SHORT_LIMITS, **EVENTS) as running:
        yield running


@pytest.fixture
def both_lanes(lane_gateway: Gateway) -> Gateway:
    """The same, with a circuit that has just seen a success: tests of failures do not add up."""
    assert lane_gateway.ask("GET", "/v1/models", token=lane_gateway.token())[0] == 200
    return lane_gateway


@pytest.fixture
def token(gateway: Gateway) -> Token:
    """A token without limits, in a new project."""
    return gateway.token()


SHORT_LIMITS = {
    "UPSTREAM_FIRST_BYTE_TIMEOUT": "800ms",
    "UPSTREAM_IDLE_TIMEOUT": "800ms",
    "REQUEST_BODY_TIMEOUT": "1s",
}
EVENTS = {"FILE_EVENT_LOG": "events.jsonl"}  # in the gateway's folder
