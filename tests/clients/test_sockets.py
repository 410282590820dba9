"""WebSockets of clients for Node, and of the Codex command line, through the proxy."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.gateway import Gateway, Token, eventually, running_gateway
from support.provider import Provider, running_provider
from support.sockets import provider_file

PACKAGES = ("openai@7.59.0", "ws@8.21.1", "@openai/codex@0.171.0")
KEPT = ("PATH", "npm_config_registry", "NPM_CONFIG_REGISTRY", "NODE_EXTRA_CA_CERTS", "HTTPS_PROXY", "NO_PROXY")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the packages are installed."""
    made = tmp_path_factory.mktemp("node")
    env = {name: os.environ[name] for name in KEPT if name in os.environ} | {"HOME": str(made)}
    if (settings := Path.home() / ".npmrc").exists():
        shutil.copy(settings, made / ".npmrc")
    (made / "package.json").write_text('{"private": true, "type": "module"}')
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", *PACKAGES]
    subprocess.run(install, cwd=made, env=env, check=True, timeout=110)
    shutil.copy(Path(__file__).with_name("sockets.mjs"), made)
    return made


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    """The simulated provider."""
    with running_provider(tmp_path_factory.mktemp("provider"), "--interval", "0") as running:
        yield running


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, provider: Provider) -> Iterator[Gateway]:
    """The proxy with WebSockets."""
    made = tmp_path_factory.mktemp("gateway")
    with running_gateway(made, provider.url, API_CONFIG_PATH=provider_file(made)) as running:
        yield running


def run(command: list[str], folder: Path, **variables: str) -> str:
    """Standard output of a command that succeeds."""
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), **variables}
    done = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_node(folder: Path, provider: Provider, gateway: Gateway) -> None:
    """Two turns on each API are what they are without the proxy, and four requests."""
    token = gateway.token()
    script = ["node", "sockets.mjs"]
    direct = json.loads(run(script, folder, URL=provider.url, KEY="sk-direct"))
    assert json.loads(run(script, folder, URL=gateway.url, KEY=token.bearer)) == direct
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


def test_codex(folder: Path, provider: Provider, gateway: Gateway) -> None:
    """Its question is a turn on a WebSocket, and what the provider said is what it prints."""
    token, before = gateway.token(), len(provider.websockets())
    assert "w0 w1 w2 w3" in codex(gateway, token, folder)
    turns = [turn for socket in provider.websockets()[before:] for turn in socket["turns"]]
    assert turns
    eventually(lambda: gateway.request_count(token) == len(turns))
    assert gateway.access_lines(token_id=token.id, kind="turn")
