"""The simulated provider as its own process, and what it witnessed."""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.gateway import opener
from support.tls import Certificate

_LINE_DEADLINE_S = 20.0


@dataclass(frozen=True)
class Seen:
    """One line of the witness log: a request as the provider received it."""

    number: int
    connection: int
    at: float
    method: str
    target: str
    version: str
    fields: list[tuple[str, str]]
    authorization: str | None
    is_chunked: bool
    body_bytes: int
    body_sha256: str
    body_is_whole: bool

    def values(self, name: str) -> list[str]:
        """All values of a field, in order."""
        return [value for key, value in self.fields if key.lower() == name.lower()]


@dataclass
class Provider:
    """A running simulated provider."""

    url: str
    log: Path
    process: subprocess.Popen[str] = field(repr=False)
    authority: str | None = None  # of its certificate

    def seen(self) -> list[Seen]:
        """Every request received so far, in order."""
        found = []
        for line in self.log.read_text().splitlines():
            about = json.loads(line)
            about["fields"] = [(name, value) for name, value in about["fields"]]
            found.append(Seen(**about))
        return found

    def wait_for(self, number: int, within_s: float = _LINE_DEADLINE_S) -> list[Seen]:
        """The requests received, once there are that many; fails after `within_s`."""
        self._until(lambda: len(self.seen()) >= number, within_s, f"{number} requests")
        return self.seen()

    def state(self) -> dict[str, int]:
        """open_connections, connections, requests, running, whole, fault, client_gone."""
        state: dict[str, int] = self._control("GET", "")
        return state

    def wait_for_state(self, within_s: float = _LINE_DEADLINE_S, **wanted: int) -> dict[str, int]:
        """The counts, once they are as wanted (`running=0`); fails after `within_s`."""

        def is_there() -> bool:
            state = self.state()
            return all(state[name] == number for name, number in wanted.items())

        self._until(is_there, within_s, f"{wanted}, but it is {self.state()}")
        return self.state()

    def exchanges(self) -> list[dict[str, Any]]:
        """How each exchange went: number, target, status, sent_bytes, outcome, began_at, ended_at."""
        found: list[dict[str, Any]] = self._control("GET", "/exchanges")
        return found

    def websockets(self) -> list[dict[str, Any]]:
        """What each WebSocket was asked (`turns`), and the code and reason that the client closed it with."""
        found: list[dict[str, Any]] = self._control("GET", "/websockets")
        return found

    def set_rules(self, *rules: dict[str, Any]) -> None:
        """Replace the rules: plans with `method`, `path`, `nth`, `every`, `times`. No rules: all as usual."""
        self._control("PUT", "/rules", list(rules))

    def _control(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/_simulator{path}", data=data, method=method)
        with opener(self.authority).open(request, timeout=10) as response:
            return json.loads(response.read())

    def _until(self, is_there: Callable[[], bool], within_s: float, what: str) -> None:
        deadline = time.monotonic() + within_s
        while not is_there():
            assert time.monotonic() < deadline, f"the provider never saw {what}"
            time.sleep(0.01)


@contextmanager
def running_provider(folder: Path, *options: str, certificate: Certificate | None = None) -> Iterator[Provider]:
    """Start one with further command-line options; stopped, and wanted to end with 0, on the way out."""
    if certificate is not None:
        options += ("--tls-cert", str(certificate.chain), "--tls-key", str(certificate.key))
    log, errors = folder / "provider.jsonl", folder / "provider.err"
    log.touch()
    command = [sys.executable, "-m", "llm_proxy.cli", "simulate-provider", "--log", str(log), *options]
    with errors.open("wb") as err:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, text=True, cwd=folder)
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        assert url.startswith("http"), errors.read_text()
        yield Provider(url, log, process, None if certificate is None else str(certificate.chain))
        assert process.poll() is None, f"the simulated provider ended by itself: {errors.read_text()}"
    finally:
        process.terminate()
        try:
            code = process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        process.stdout.close()
    assert code == 0, errors.read_text()
    assert errors.read_text() == ""


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Provider]:
    """A simulated provider without pauses between events, for one test."""
    folder = tmp_path / "provider"
    folder.mkdir()
    with running_provider(folder, "--interval", "0") as running:
        yield running
