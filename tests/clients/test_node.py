"""The matrix of SDKs for Node: what each makes of a response through the proxy is what it makes of a direct one."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from clients.conftest import Way, World
from support.gateway import eventually
from support.npm import installed

PACKAGES = (  # pinned: newer ones may want a newer Node than Debian's
    *("openai@7.59.0", "@anthropic-ai/sdk@1.14.0", "@google/genai@2.32.0", "groq-sdk@1.6.0"),
    *("@mistralai/mistralai@2.7.0", "ai@6.0.326", "@ai-sdk/openai@3.0.141", "@ai-sdk/anthropic@3.0.140"),
)
CLIENTS = ("openai", "azure", "groq", "anthropic", "google", "mistral", "vercel", "vercel-anthropic")
PROVIDERS = {"vercel": "openai", "vercel-anthropic": "anthropic"}  # of the others, the provider has the client's name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the packages are installed."""
    made = tmp_path_factory.mktemp("node")
    installed(made, *PACKAGES, script=Path(__file__).with_name("client.mjs"))
    return made


def run(folder: Path, name: str, way: Way, **more: str) -> Any:
    """What the client prints."""
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "NAME": name, "URL": way.url, "KEY": way.key} | more
    done = subprocess.run(["node", "client.mjs"], cwd=folder, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", CLIENTS)
def test_results_are_the_direct_ones(world: World, folder: Path, name: str) -> None:
    """Whole, streamed, with a tool call, and the SDK's own exception for a 429."""
    provider = PROVIDERS.get(name, name)
    direct = run(folder, name, world.direct(provider))
    proxied = run(folder, name, world.proxied(provider))
    assert proxied == direct
    assert proxied["ask"]
    assert proxied["stream"].strip() == proxied["ask"]
    assert proxied["error"]["status"] == 429
    assert "weather" in json.dumps(proxied["tool"])


@pytest.mark.parametrize("name", CLIENTS)
def test_a_cancelled_stream_ends_at_the_provider(world: World, folder: Path, name: str) -> None:
    """The client leaves a slow stream after the first chunk; the provider sees it leave."""
    provider = world.side.providers[PROVIDERS.get(name, name)]
    before = provider.state()["client_gone"] + provider.state()["fault"]
    assert "first" in run(folder, name, world.proxied(PROVIDERS.get(name, name)), CANCEL="1")
    eventually(lambda: provider.state()["client_gone"] + provider.state()["fault"] > before)
