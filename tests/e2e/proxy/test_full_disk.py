"""One server whose files lie on small disks; each disk in turn is full under load, and every count is right after."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.gateway import Gateway, Token, eventually, running_gateway
from support.provider import Provider, running_provider
from support.small_disk import SmallDisk, small_disk

from llm_proxy.audit.verify_file import verify_file

_CALLS = 60
_DISKS_KIB = {
    "tmp": 24_000,
    "spool": 1000,
    "ledger": 6000,
    "log": 1000,
    "audit": 1000,
    "events": 3000,
    "database": 6000,
}
_PATH = "/v1/chat/completions"
_CHAT = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}).encode()


@dataclass
class World:
    """The server, its provider, its disks, two tokens, and how the calls with each ended, by status."""

    gateway: Gateway
    provider: Provider
    disks: dict[str, SmallDisk]
    tokens: dict[str, Token]
    ended: dict[str, Counter[int]]

    def call(self, kind: str) -> int:
        """Make one call and count how it ended."""
        fields = {"Content-Type": "application/json"}
        status = self.gateway.ask("POST", _PATH, _CHAT, token=self.tokens[kind], headers=fields)[0]
        self.ended[kind][status] += 1
        return status

    def load(self, calls: int = _CALLS) -> dict[str, Counter[int]]:
        """Make calls with both tokens, eight at a time; return how they ended."""
        kinds = list(itertools.islice(itertools.cycle(self.tokens), calls))
        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(self.call, kinds))
        return {kind: Counter(s for k, s in zip(kinds, statuses, strict=True) if k == kind) for kind in self.tokens}

    def is_settled(self) -> bool:
        """Return whether usage and lines of all calls are written down."""
        answered, lines, lost, used = self.counts()
        return lines + lost == answered == used

    def counts(self) -> tuple[int, int, int, int]:
        """Return the calls that were answered, their lines, the lines that were lost, and the requests in usage."""
        answered = sum(ended[200] for ended in self.ended.values())
        lost = self.gateway.metric('llm_proxy_events_dropped_total{reason="file"}')
        used = self.gateway.rows("SELECT SUM(requests) FROM usage_daily WHERE model = 'gpt-4o'")
        return answered, self.lines(), int(lost), used[0][0]

    def lines(self) -> int:
        """Count the answered calls in the file of events."""
        written = (self.gateway.folder / "events" / "events.jsonl").read_bytes().splitlines()
        events = [json.loads(line) for line in written]
        return sum(event["path"] == _PATH and event["status"] == 200 for event in events)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Two workers; Redis is not there, so events go to the spool."""
    folder = tmp_path_factory.mktemp("full")
    with ExitStack() as stack:
        disks = {name: stack.enter_context(small_disk(folder / name, kib)) for name, kib in _DISKS_KIB.items()}
        provider = stack.enter_context(running_provider(tmp_path_factory.mktemp("provider"), "--interval", "0"))
        with socket.create_server(("127.0.0.1", 0)) as nobody:
            redis = f"127.0.0.1:{nobody.getsockname()[1]}"
        gateway = stack.enter_context(
            running_gateway(
                folder,
                provider.url,
                WEB_CONCURRENCY="2",
                TMPDIR=str(folder / "tmp"),
                EVENT_SPOOL_DIR=str(folder / "spool"),
                LEDGER_DIR=str(folder / "ledger"),
                LOG_FILE=str(folder / "log" / "server.log"),
                AUDIT_LOG_FILE=str(folder / "audit" / "audit.log"),
                FILE_EVENT_LOG=str(folder / "events" / "events.jsonl"),
                DATABASE_PATH=str(folder / "database" / "llm-proxy.db"),
                LLM_PROXY_EVENT_BUS="redis-streams",
                REDIS_ADDR=redis,
                HTTP_CACHE_ENABLED="true",
            )
        )
        gateway = _Elsewhere(**vars(gateway))
        tokens = {"unlimited": gateway.token(), "limited": gateway.token(max_requests=5000)}
        found = World(gateway, provider, disks, tokens, {kind: Counter() for kind in tokens})
        assert found.load() == {kind: {200: _CALLS // 2} for kind in tokens}
        yield found


class _Elsewhere(Gateway):
    """A gateway whose database lies on its own disk."""

    @property
    def database(self) -> Path:
        return self.folder / "database" / "llm-proxy.db"


@pytest.mark.parametrize("name", ["spool", "ledger", "log", "audit", "events"])
def test_requests_do_not_notice_a_full_disk(world: World, name: str) -> None:
    """Every call is answered 200, while it is full and after."""
    world.disks[name].fill()
    assert world.load() == {kind: {200: _CALLS // 2} for kind in world.tokens}
    world.disks[name].free()
    assert world.load() == {kind: {200: _CALLS // 2} for kind in world.tokens}


def test_a_worker_that_starts_on_a_full_disk_serves(world: World) -> None:
    """Its ledger is in memory, and in its folder once there is room."""
    eventually(
        world.is_settled, 10, lambda: str(world.counts())
    )  # what a killed worker holds in memory is lost, as the documentation says
    world.disks["ledger"].fill()
    victim = world.gateway.workers()[0]
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: victim not in world.gateway.workers() and len(world.gateway.workers()) == 2)
    world.disks["ledger"].fill()  # also what the dead worker's ledger took, once another has settled it
    assert world.load() == {kind: {200: _CALLS // 2} for kind in world.tokens}
    world.disks["ledger"].free()
    eventually(lambda: len(list((world.gateway.folder / "ledger").rglob("*.ledger"))) == 2)
    assert world.load() == {kind: {200: _CALLS // 2} for kind in world.tokens}


def test_a_full_database_refuses_what_must_be_counted_there(world: World) -> None:
    """Calls are answered 200 or 503, and 200 again at once when there is room."""
    world.disks["database"].fill()
    full = world.load()
    assert set(full["unlimited"]) == {200}
    assert set(full["limited"]) <= {200, 503}
    world.disks["database"].free()
    eventually(lambda: world.load(8) == {kind: {200: 4} for kind in world.tokens})


def test_a_full_temporary_folder_ends_no_process(world: World) -> None:
    """Nor does it keep a worker from starting, after a kill or a reload; the metrics are right when there is room."""
    reader, asked = world.gateway.token(), 0
    before = set(world.gateway.workers())
    world.disks["tmp"].fill()
    for _ in range(3):
        assert world.load() == {kind: {200: _CALLS // 2} for kind in world.tokens}
        assert world.gateway.ask("GET", "/v1/models", token=reader)[0] == 200  # served or missed by the cache
        asked += 1
    assert set(world.gateway.workers()) == before

    eventually(
        world.is_settled, 10, lambda: str(world.counts())
    )  # what a killed worker holds in memory is lost, as the documentation says
    victim = world.gateway.workers()[0]
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: victim not in world.gateway.workers() and len(world.gateway.workers()) == 2)
    world.gateway.process.send_signal(signal.SIGHUP)
    eventually(lambda: before.isdisjoint(world.gateway.workers()) and len(world.gateway.workers()) == 2, 30)
    assert world.load() == {kind: {200: _CALLS // 2} for kind in world.tokens}
    assert world.gateway.get("/metrics/prometheus")[0] == 200

    world.disks["tmp"].free()
    asked += sum(sum(ended.values()) for ended in world.ended.values())
    eventually(
        lambda: world.gateway.metric("llm_proxy_requests_total") == asked,
        15,
        lambda: (
            f"{asked}, but it is {world.gateway.metrics('llm_proxy_requests_total')}"
            + "".join(p.read_text() for p in (world.gateway.folder / "log").iterdir())[-9000:]
        ),
    )


def test_every_count_is_right_after(world: World) -> None:
    """Provider, counters, usage, events and audit agree."""
    answered = {kind: ended[200] for kind, ended in world.ended.items()}
    eventually(lambda: {kind: world.gateway.request_count(token) for kind, token in world.tokens.items()} == answered)
    assert sum(seen.target == _PATH for seen in world.provider.seen()) == sum(answered.values())
    lost = world.gateway.metric('llm_proxy_events_dropped_total{reason="file"}')
    assert lost > 0
    eventually(lambda: world.lines() + lost == sum(answered.values()), 10, lambda: f"{world.lines()} and {lost} lost")
    eventually(world.is_settled, 10, lambda: str(world.counts()))
    report = verify_file([world.gateway.folder / "audit" / "audit.log"], None)
    assert (report.faults, report.unreadable) == ([], 0)
    done = subprocess.run(
        [sys.executable, "-m", "llm_proxy.cli", "usage", "reconcile", "--json"],
        env=world.gateway.env,
        cwd=world.gateway.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
