"""WebSockets of clients for Node, and of the Codex command line, through the proxy."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.gateway import Gateway, Token, eventually, running_gateway
from support.npm import installed
from support.provider import Provider, running_provider
from support.sockets import provider_file
from support.tls import Certificate, self_signed

PACKAGES = ("openai@7.59.0", "ws@8.21.1", "@openai/codex@0.171.0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the packages are installed."""
    made = tmp_path_factory.mktemp("node")
    installed(made, *PACKAGES, script=Path(__file__).with_name("sockets.mjs"), timeout_s=110)
    return made


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """Of provider and proxy: openai-node's Realtime speaks TLS only."""
    return self_signed(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory, certificate: Certificate) -> Iterator[Provider]:
    """The simulated provider."""
    with running_provider(tmp_path_factory.mktemp("provider"), "--interval", "0", certificate=certificate) as running:
        yield running


@pytest.fixture(scope="module", params=["tls", "plain"])
def gateway(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    provider: Provider,
    certificate: Certificate,
) -> Iterator[Gateway]:
    """The proxy with WebSockets, by HTTPS and by HTTP."""
    made = tmp_path_factory.mktemp("gateway")
    variables = {"API_CONFIG_PATH": provider_file(made), "REQUESTS_CA_BUNDLE": str(certificate.chain)}
    if request.param == "tls":
        variables |= {"ENABLE_TLS": "true", "TLS_CERT_FILE": str(certificate.chain)}
        variables |= {"TLS_KEY_FILE": str(certificate.key)}
    with running_gateway(made, provider.url, **variables) as running:
        yield running


def run(command: list[str], folder: Path, **variables: str) -> str:
    """Standard output of a command that succeeds."""
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), **variables}
    done = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("gateway", ["tls"], indirect=True)
def test_node(folder: Path, provider: Provider, gateway: Gateway, certificate: Certificate) -> None:
    """Two turns on each API are what they are without the proxy, and four requests."""
    token = gateway.token()

    def ask(url: str, key: str) -> dict[str, list[str]]:
        trusted = {"NODE_EXTRA_CA_CERTS": str(certificate.chain)}
        found: dict[str, list[str]] = json.loads(run(["node", "sockets.mjs"], folder, URL=url, KEY=key, **trusted))
        return found

    direct = ask(provider.url, "sk-direct")
    assert ask(gateway.url, token.bearer) == direct
    assert direct["responses"].count("response.completed") == direct["realtime"].count("response.done") == 2
    assert gateway.request_count(token) == 4


def codex(gateway: Gateway, token: Token, folder: Path) -> str:
    """What Codex says to a question."""
    about = {
        "name": '"proxy"',
        "base_url": f'"{gateway.url}/v1"',
        "env_key": '"PROXY_TOKEN"',
        "wire_api": '"responses"',
        "supports_websockets": "true",
        "stream_max_retries": "0",
    }
    options = [f"model_providers.proxy.{name}={value}" for name, value in about.items()]
    options += ['model_provider="proxy"', 'model="gpt-4o"']
    command = ["node_modules/.bin/codex", "exec", "--skip-git-repo-check", "--sandbox", "read-only"]
    for option in options:
        command += ["-c", option]
    home = folder / "codex"
    home.mkdir(exist_ok=True)
    return run([*command, "Say hello."], folder, PROXY_TOKEN=token.bearer, CODEX_HOME=str(home))


@pytest.mark.parametrize("gateway", ["plain"], indirect=True)
def test_codex(folder: Path, provider: Provider, gateway: Gateway) -> None:
    """Its question is a turn on a WebSocket, and what the provider said is what it prints."""
    token, before = gateway.token(), len(provider.websockets())
    assert "w0 w1 w2 w3" in codex(gateway, token, folder)
    turns = [turn for socket in provider.websockets()[before:] for turn in socket["turns"]]
    assert turns
    eventually(lambda: gateway.request_count(token) == len(turns))
    gateway.wait_for_access(len(turns), token_id=token.id, kind="turn")
