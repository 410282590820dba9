"""A provider that speaks WebSocket, and a proxy before it; each test brings its own tokens."""

import resource
from collections.abc import Iterator

import pytest
from support.gateway import Gateway, Token, running_gateway
from support.provider import Provider
from support.sockets import provider_file


@pytest.fixture(scope="session", autouse=True)
def _many_files() -> None:
    """Let this process, and the servers that it starts, have a thousand connections open."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8192 if most == resource.RLIM_INFINITY else min(most, 8192)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, provider: Provider) -> Iterator[Gateway]:
    """The proxy with one worker."""
    folder = tmp_path_factory.mktemp("gateway")
    variables = {"API_CONFIG_PATH": provider_file(folder), "FILE_EVENT_LOG": "events.jsonl"}
    variables |= {"WS_MAX_SOCKETS_PER_TOKEN": "12", "WS_MAX_MESSAGE": "1MB", "WS_ALLOW_SUBPROTOCOL_AUTH": "true"}
    with running_gateway(folder, provider.url, **variables) as running:
        yield running


@pytest.fixture
def token(gateway: Gateway) -> Token:
    """A token without limits, of its own project."""
    return gateway.token()
