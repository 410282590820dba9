"""The measurements: each one drives a contestant and returns plain numbers."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from contestants import Contestant, Upstream
from machine import pinned
from payload import raw_request

HERE = Path(__file__).parent


@dataclass(slots=True)
class Samples:
    """All that was measured of one contestant, round by round."""

    latency_us: list[list[float]] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)  # per request
    rps: list[float] = field(default_factory=list)
    price_us: list[float] = field(default_factory=list)  # of accounting: added p50, a pair of slices each
    round_trips: list[float] = field(default_factory=list)  # to the database, per request
    streams: dict[int, list[dict[str, Any]]] = field(default_factory=dict)  # by how many at once


@dataclass(slots=True)
class Checks:
    """What must be true besides the clock; a line each for what is not."""

    passed: int = 0
    failed: list[str] = field(default_factory=list)

    def expect(self, is_true: bool, otherwise: str) -> None:
        if is_true:
            self.passed += 1
        else:
            self.failed.append(otherwise)


def percentile(values: list[float], percent: float) -> float:
    """Nearest rank; 0.0 of nothing."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def middle(values: list[float]) -> float:
    """Median over rounds; 0.0 of nothing."""
    return median(values) if values else 0.0


class Bench:
    """Drives load from the loading cores and compares what both ends have counted."""

    def __init__(self, folder: Path, cores: tuple[int, ...], upstream: Upstream, checks: Checks) -> None:
        self.folder, self._cores, self.upstream, self._checks = folder, cores, upstream, checks
        self.charged: dict[str, int] = {}  # contestant → requests that the provider saw through it
        self.slack: dict[str, int] = {}  # … and how many of them may have been under way when load ended

    def latency(self, contestant: Contestant, requests: int) -> list[float]:
        """µs of each of `requests`, one after the other."""
        before, fields = self.upstream.seen(), json.dumps(list(contestant.fields))
        found: list[float] = self._script("latency_client.py", contestant.port, contestant.token, requests, fields)
        self._count(contestant, before, requests, 0)
        return found

    def throughput(self, contestant: Contestant, seconds: int, connections: int = 32) -> tuple[float, float]:
        """Return requests per second and CPU µs per request at `connections`."""
        request = self.folder / "request.bin"
        request.write_bytes(raw_request(contestant.port, contestant.token, more=contestant.fields))
        threads = str(min(len(self._cores), connections))
        command = ["wrk", "-t", threads, "-c", str(connections), "-d", f"{seconds}s", "--timeout", "10s"]
        command += ["-s", str(HERE / "load.lua"), f"http://127.0.0.1:{contestant.port}/", "--", str(request)]
        seen, cpu = self.upstream.seen(), contestant.cpu_s()
        done = subprocess.run(pinned(self._cores, command), capture_output=True, text=True, check=True)
        cpu = contestant.cpu_s() - cpu
        totals = json.loads(done.stdout.strip().splitlines()[-1])
        self._checks.expect(not totals["bad"], f"{contestant.name}: {totals['bad']} of {totals['requests']} went wrong")
        self._count(contestant, seen, totals["requests"], connections)
        requests = max(1, totals["requests"])
        return requests / (totals["duration_us"] / 1e6), cpu * 1e6 / requests

    def streams(
        self, contestant: Contestant, streams: int, events: int, interval_ms: float, gap_ms: float
    ) -> dict[str, Any]:
        """Many streams at once: delays, times to the head, CPU µs per event, memory per stream, nothing lost."""
        arguments = (contestant.stream_port, contestant.token, streams, events, interval_ms, gap_ms)
        command = [sys.executable, str(HERE / "stream_client.py"), *map(str, arguments)]
        cpu, memory = contestant.cpu_s(), contestant.worker_bytes()
        client = subprocess.Popen(pinned(self._cores, command), stdout=subprocess.PIPE, text=True)
        with client:
            assert client.stdout is not None
            client.stdout.readline()
            held = contestant.worker_bytes() - memory
            found: dict[str, Any] = json.loads(client.stdout.readline())
        found["cpu_us"] = (contestant.cpu_s() - cpu) * 1e6 / max(1, found["events"])
        found["bytes_each"] = held / streams
        name = f"{contestant.name}, {streams} streams"
        lost = streams * events - found["events"]
        self._checks.expect(not lost, f"{name}: {lost} of {streams * events} events lost")
        self._checks.expect(found["whole"] == streams, f"{name}: {streams - found['whole']} streams not whole")
        self.charged[contestant.name] = self.charged.get(contestant.name, 0) + streams
        return found

    def _script(self, script: str, *arguments: object) -> Any:
        command = [sys.executable, str(HERE / script), *map(str, arguments)]
        done = subprocess.run(pinned(self._cores, command), capture_output=True, text=True, env=os.environ)
        if done.returncode:
            raise RuntimeError(f"{script}: {done.stderr.strip().splitlines()[-1]}")
        return json.loads(done.stdout)

    def _settled(self) -> int:
        """Return the provider's count once it stands still: what was under way when load ended still arrives."""
        before, deadline = -1, time.monotonic() + 5
        while (seen := self.upstream.seen()) != before and time.monotonic() < deadline:
            before = seen
            time.sleep(0.1)
        return seen

    def _count(self, contestant: Contestant, before: int, answered: int, under_way: int) -> None:
        """Check that the provider saw what was answered, but for what was under way at the load's end."""
        seen = self._settled() - before
        wanted = 0 if contestant.name == "server alone" else answered
        slack = 0 if contestant.name == "server alone" else under_way
        self._checks.expect(
            wanted <= seen <= wanted + slack or not contestant.is_counted,
            f"{contestant.name}: {answered} answered, the provider saw {seen}",
        )
        self.charged[contestant.name] = self.charged.get(contestant.name, 0) + seen
        self.slack[contestant.name] = self.slack.get(contestant.name, 0) + slack
