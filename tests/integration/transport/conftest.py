"""The ways to the scripted upstream that every case is tried on: plain, by TLS, by TLS through a CONNECT tunnel."""

from collections.abc import Iterator
from typing import Any

import pytest
from integration.transport.scripted import Authority, Proxy, Server, found
from integration.transport.transport_lab import SWEEP_S, Lab

from llm_proxy.transport import Options, Upstream

_PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def server_context(authority: Authority) -> Any:
    return authority.context()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def make_lab(monkeypatch: pytest.MonkeyPatch, authority: Authority, server_context: Any) -> Iterator[Any]:
    """Builds labs; closes them and wants nothing left over."""
    labs: list[Lab] = []
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.bundle))

    def make(mode: str, *, context: Any = None, **options: Any) -> Lab:
        server = Server((context or server_context) if mode != "plain" else None)
        proxy = Proxy(server.port) if mode == "tunnel" else None
        if proxy is not None:
            monkeypatch.setenv("HTTPS_PROXY", f"http://user:p%40ss@127.0.0.1:{proxy.port}")
        options.setdefault("look_up", found)
        lab = Lab(mode, server, Upstream(Options(sweep_s=SWEEP_S, **options)), proxy)
        labs.append(lab)
        return lab

    yield make
    for lab in labs:
        for response in lab.responses:
            response.close()
        assert lab.upstream.live_count == 0
        lab.upstream.close()
        assert lab.upstream.open_count == 0
        lab.server.close()
        if lab.proxy is not None:
            lab.proxy.close()


@pytest.fixture(params=["plain", "tls", "tunnel"])
def lab(request: pytest.FixtureRequest, make_lab: Any) -> Lab:
    """The upstream by each way."""
    made: Lab = make_lab(request.param)
    return made


@pytest.fixture
def plain(make_lab: Any) -> Lab:
    """The upstream without TLS."""
    made: Lab = make_lab("plain")
    return made
