"""bin/up: the first command of the two, from its first run to Ctrl-C."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.commands import plain_environment
from support.processes import free_port

FASTER_THAN_S = 4.0  # an installation takes 20 s and more; a second start on a quiet machine 2.4 to 2.8
PROVIDER_KEY = "sk-provider-key-of-the-environment-01"


@pytest.fixture
def clone(tmp_path: Path, checkout: Path) -> Path:
    """A clone in which the installation has been done: bin/up must not do it again, so there is no pip in it."""
    for name in ("setup.cfg", "pyproject.toml"):
        shutil.copy(checkout / name, tmp_path)
    shutil.copytree(checkout / "bin", tmp_path / "bin")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    refuse_pip = '[ "$2" != pip ] || { echo "pip was run" >&2; exit 9; }'
    python.write_text(f'#!/bin/sh\n{refuse_pip}\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    content = (tmp_path / "setup.cfg").read_bytes() + (tmp_path / "pyproject.toml").read_bytes()
    (tmp_path / ".venv" / ".installed").write_bytes(content)
    return tmp_path


@dataclass
class Up:
    """A running bin/up."""

    process: subprocess.Popen[str]
    folder: Path
    output: str
    took_s: float

    @property
    def url(self) -> str:
        """What it serves on."""
        return str(re.findall(r"^Serving: +(\S+)$", self.output, re.MULTILINE)[0])

    @property
    def token(self) -> str:
        """This run's token."""
        return str(re.findall(r"^Token: +(sk-\S+) ", self.output, re.MULTILINE)[0])

    def errors(self) -> str:
        """All of stderr so far."""
        return (self.folder / "stderr").read_text()

    def status_of(self, token: str) -> int:
        """What the proxy says to a request with a token."""
        request = urllib.request.Request(f"{self.url}/v1/models", headers={"Authorization": f"Bearer {token}"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=10) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code


@contextmanager
def up(clone: Path, *options: str, ends_by: int = signal.SIGINT, **variables: str) -> Iterator[Up]:
    """Run it until its greeting; end it by a signal, wanting 0 and no process left."""
    env = plain_environment({"LISTEN_ADDR": f"127.0.0.1:{free_port()}", **variables})
    began = time.monotonic()
    with (clone / "stderr").open("w") as err:
        process = subprocess.Popen(
            ["bash", "bin/up", *options], cwd=clone, env=env, stdout=subprocess.PIPE, stderr=err, text=True
        )
    assert process.stdout is not None
    output = ""
    with process.stdout:
        while "Ctrl-C stops everything" not in output:
            line = process.stdout.readline()
            assert line, (clone / "stderr").read_text()
            output += line
        running = Up(process, clone, output, time.monotonic() - began)
        children = descendants(process.pid)
        try:
            yield running
        finally:
            process.send_signal(ends_by)
            try:
                code = process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
    assert code == 0, running.errors()
    assert children
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


def descendants(pid: int) -> list[int]:
    """All processes below one."""
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [*children, *(below for child in children for below in descendants(child))]


def rows(clone: Path, query: str) -> list[tuple[Any, ...]]:
    """Rows of the database."""
    with closing(sqlite3.connect(clone / "data" / "llm-proxy.db")) as database:
        return database.execute(query).fetchall()


def test_first_run_to_a_streamed_completion(clone: Path) -> None:
    """Secrets are made for the owner alone, the pasted curl line streams, Ctrl-C ends everything with 0."""
    with up(clone) as running:
        assert running.url.startswith("http://127.0.0.1:")
        command = next(line for line in running.output.splitlines() if line.startswith("curl -N "))
        done = subprocess.run(shlex.split(command), capture_output=True, text=True, timeout=30, check=True)
        assert done.stdout.count("data: ") > 10
        assert done.stdout.endswith("data: [DONE]\n\n")
        file = clone / ".env"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        names = [line.partition("=")[0] for line in file.read_text().splitlines() if not line.startswith("#")]
        assert names == ["MANAGEMENT_TOKEN", "ENCRYPTION_KEY"]
        assert not [
            line for line in file.read_text().splitlines() if line.partition("=")[2] in ("", None) and "=" in line
        ]
        assert rows(clone, "SELECT name FROM projects ORDER BY name") == [("default",), ("simulated",)]
        content = (clone / "data" / "llm-proxy.db").read_bytes() + (clone / "data" / "llm-proxy.db-wal").read_bytes()
        assert b"sk-simulated" not in content
        assert running.token.encode() not in content


def test_an_http_proxy_does_not_come_between(clone: Path) -> None:
    """HTTP_PROXY is for the real provider: the simulated one on this machine is reached without it."""
    with up(clone, HTTP_PROXY="http://127.0.0.1:1", http_proxy="http://127.0.0.1:1", NO_PROXY="a.example") as running:
        assert running.status_of(running.token) == 200


@pytest.mark.times
def test_second_run_installs_nothing_and_keeps_everything(clone: Path) -> None:
    """It starts in under 3 s, leaves .env and projects alone, and the first run's token goes on working."""
    with up(clone) as first:
        env_file = (clone / ".env").read_text()
        projects = rows(clone, "SELECT * FROM projects ORDER BY name")
    with up(clone, ends_by=signal.SIGTERM) as second:
        assert second.took_s < FASTER_THAN_S or os.getloadavg()[0] > 2 * (os.cpu_count() or 1)
        assert "Installing" not in second.errors()
        assert (clone / ".env").read_text() == env_file
        assert rows(clone, "SELECT * FROM projects ORDER BY name") == projects
        assert second.token == first.token
        assert second.status_of(second.token) == 200
        assert "the last run's, until 20" in second.output
    assert stat.S_IMODE((clone / "data" / "up.json").stat().st_mode) == 0o600


def test_a_revoked_token_is_replaced(clone: Path) -> None:
    """A token of the last run that does not work any more is not shown again."""
    with up(clone) as first:
        pass
    with closing(sqlite3.connect(clone / "data" / "llm-proxy.db")) as database:
        database.execute("UPDATE tokens SET is_active = 0")
        database.commit()
    with up(clone) as second:
        assert second.token != first.token
        assert second.status_of(second.token) == 200


@pytest.mark.parametrize("before", ["", "# mine\nLOG_LEVEL=info\n", "MANAGEMENT_TOKEN=a-management-token-of-mine\n"])
def test_an_env_file_that_lacks_secrets_gets_them(clone: Path, before: str) -> None:
    """What is there stays; the next start adds nothing."""
    (clone / ".env").write_text(before)
    with up(clone) as running:
        after = (clone / ".env").read_text()
        assert after.startswith(before)
        names = [line.partition("=")[0] for line in after.splitlines() if "=" in line]
        assert sorted(names) == sorted(
            {"MANAGEMENT_TOKEN", "ENCRYPTION_KEY", *(["LOG_LEVEL"] if "LOG" in before else [])}
        )
        assert "added to .env" in running.errors()


def test_no_second_key_is_made_for_sealed_provider_keys(clone: Path) -> None:
    """A key that was given by the environment and is missing now is not replaced by one that opens nothing."""
    with up(clone, ENCRYPTION_KEY="QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="):
        assert "ENCRYPTION_KEY" not in (clone / ".env").read_text()
    before = (clone / ".env").read_text()
    done = _run(clone, LISTEN_ADDR=f"127.0.0.1:{free_port()}")
    assert done.returncode == 1
    assert "ENCRYPTION_KEY" in done.stderr
    assert (clone / ".env").read_text() == before


def test_default_project_follows_the_key(clone: Path) -> None:
    """With OPENAI_API_KEY the token is the default project's, and its key is the one given last; no output shows it."""
    for key in (PROVIDER_KEY, PROVIDER_KEY + "-changed"):
        with up(clone, OPENAI_API_KEY=key, OPENAI_API_URL="http://127.0.0.1:1") as running:
            query = "SELECT p.name, p.is_active FROM tokens t JOIN projects p ON p.id = t.project_id WHERE t.is_active"
            assert rows(clone, query) == [("default", 1)]
            assert running.status_of(running.token) == 502
            assert PROVIDER_KEY not in running.output + running.errors()
            assert "simulated provider" not in running.output
    from llm_proxy.crypto import KeyRing
    from llm_proxy.settings import load

    ring = KeyRing.from_settings(load({}, clone / ".env").settings.storage)
    [(identity, sealed)] = rows(clone, "SELECT id, api_key FROM projects WHERE name = 'default'")
    assert ring.open(sealed, identity) == PROVIDER_KEY + "-changed"


def test_busy_port_is_one_clear_line(clone: Path) -> None:
    """Exit code 1, and neither process nor project is made."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = _run(clone, LISTEN_ADDR=address)
    assert done.returncode == 1
    hint = r"stop what listens there, or set LISTEN_ADDR=127\.0\.0\.1:\d+"
    assert re.fullmatch(f"Error: cannot listen on {address}: address already in use; {hint}\n", done.stderr)
    assert done.stdout == ""


def test_faults_are_lines(clone: Path) -> None:
    """A wrong variable in .env is named, and nothing is served."""
    (clone / ".env").write_text("MANAGEMENT_TOKEN=a-management-token-of-mine\nLOG_LEVEL=loud\n")
    done = _run(clone)
    assert (done.returncode, done.stderr) == (1, "Error: LOG_LEVEL=loud: expected one of debug, info, warn, error\n")


def test_children_end_with_their_parent(clone: Path) -> None:
    """Even when bin/up is killed, neither server nor simulated provider stays."""
    env = plain_environment({"LISTEN_ADDR": f"127.0.0.1:{free_port()}"})
    with (clone / "stderr").open("w") as err:
        process = subprocess.Popen(
            ["bash", "bin/up"], cwd=clone, env=env, stdout=subprocess.PIPE, stderr=err, text=True
        )
    assert process.stdout is not None
    with process.stdout:
        while "Ctrl-C" not in process.stdout.readline():
            assert process.poll() is None, (clone / "stderr").read_text()
        children = descendants(process.pid)
        process.kill()
        process.wait()
        deadline = time.monotonic() + 20
        while [pid for pid in children if _lives(pid)]:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_help_explains_itself(clone: Path) -> None:
    """Also before anything is installed."""
    shutil.rmtree(clone / ".venv")
    done = subprocess.run(["bash", "bin/up", "--help"], cwd=clone, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "OPENAI_API_KEY" in done.stdout
    assert "127.0.0.1:8080" in done.stdout
    assert not (clone / ".venv").exists()
    wrong = subprocess.run(["bash", "bin/up", "--fast"], cwd=clone, capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stderr) == (1, "Error: --fast is unknown; see bin/up --help\n")


def test_it_can_install_and_end(clone: Path) -> None:
    """For what needs .venv and no server; where the installation has been done, nothing is left to do."""
    command = ["bash", "bin/up", "--install"]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=False, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (clone / ".env").exists()


def _run(clone: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "bin/up"],
        cwd=clone,
        env=plain_environment(variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_state_of_another_database_is_no_fault(clone: Path) -> None:
    """The last run's token may be unknown here."""
    (clone / "data").mkdir()
    (clone / "data" / "up.json").write_text(json.dumps({"token_id": "7f6f7f43-0000-4000-8000-000000000000"}))
    with up(clone) as running:
        assert running.status_of(running.token) == 200


def test_a_simulated_provider_stands_beside(clone: Path) -> None:
    """`--provider anthropic`: mounted at its name, with the same token in the vendor's own field."""
    with up(clone, "--provider", "anthropic") as running:
        assert f"{running.url}/anthropic: a simulated provider" in running.output
        body = b'{"model":"claude","max_tokens":5,"messages":[{"role":"user","content":"hello"}]}'
        fields = {"x-api-key": running.token, "Content-Type": "application/json"}
        request = urllib.request.Request(f"{running.url}/anthropic/v1/messages", data=body, headers=fields)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=10) as response:
            assert json.load(response)["type"] == "message"
        assert running.status_of(running.token) == 200
