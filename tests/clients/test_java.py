"""LangChain4j on a JDK: what it makes of a response through the proxy is what it makes of a direct one."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from clients.conftest import Way, World

PROJECT = Path(__file__).with_name("java")
KEPT = ("PATH", "HOME", "JAVA_HOME", "MAVEN_OPTS", "HTTPS_PROXY", "NO_PROXY")
CLIENTS = ("openai", "anthropic", "google", "mistral")
SHOWN = {"text": "ask", "tool": "weather", "error": "RateLimitException"}
REFUSALS = {401: "AuthenticationException", 403: "AuthenticationException", 429: "RateLimitException"}


@pytest.fixture(scope="module")
def classpath(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The compiled client, and the libraries that Maven fetches."""
    made = tmp_path_factory.mktemp("java")
    shutil.copytree(PROJECT, made / "project")
    env = {name: os.environ[name] for name in KEPT if name in os.environ}
    build = ["mvn", "-q", "-B", "compile", "dependency:build-classpath", "-Dmdep.outputFile=target/classpath"]
    done = subprocess.run(build, cwd=made / "project", env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    target = made / "project" / "target"
    return f"{target / 'classes'}:{(target / 'classpath').read_text()}"


def run(classpath: str, name: str, way: Way, kind: str) -> dict[str, Any]:
    """Return what the client prints."""
    env = {"PATH": os.environ["PATH"], "NAME": name, "URL": way.url, "KEY": way.key, "KIND": kind}
    command = ["java", "-cp", classpath, "Client"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", CLIENTS)
def test_results_are_the_direct_ones(world: World, classpath: str, name: str) -> None:
    """Whole, streamed, with a tool call, and its exception for the provider's 429."""
    provider = world.side.providers[name]
    try:
        for kind, rule in (("text", {}), ("tool", {"tool": True}), ("error", {"status": 429})):
            provider.set_rules(*([rule] if rule else []))
            proxied = run(classpath, name, world.proxied(name), kind)
            assert proxied == run(classpath, name, world.direct(name), kind)
            assert SHOWN[kind] in str(proxied)
    finally:
        provider.set_rules()


@pytest.mark.parametrize("status", REFUSALS)
def test_the_proxys_refusals_are_the_librarys_own(world: World, classpath: str, status: int) -> None:
    """An unknown token, one for another provider, one without requests left: its exception for the status."""
    token = {401: lambda: "sk-" + "a" * 22, 403: lambda: world.side.token(providers=["mistral"]),
             429: lambda: world.side.token(max_requests=1)}[status]()  # fmt: skip
    way = world.proxied("openai", token)
    if status == 429:
        run(classpath, "openai", way, "error")
    found = run(classpath, "openai", way, "error")["error"]
    assert (found["status"], found["name"]) == (status, REFUSALS[status])
