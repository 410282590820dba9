"""What each feature costs: the proxy with one more feature at a time, in one interleaved run of throughput.

Two gateways are the same. What their pairs span is the noise of the machine (A/A); a feature whose price lies within it
is not shown to cost anything.
"""

import os
import random
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comparing import AGAIN, BASE, prices
from contestants import ROOT, Gateway, Upstream
from machine import Process, free_port, responds_to_ping
from measure import Bench

MAX_REQUESTS = 10**9  # limited: that is the dearer token
_RULES = """\
default_api: bench
apis:
  bench:
    base_url: {url}
    allowed_endpoints: [/v1/chat/completions]
    allowed_methods: [POST]
    param_whitelist:
      model: ["gpt-4o*"]
"""


@dataclass(frozen=True, slots=True)
class Feature:
    """One row: settings and facts of the token in which its gateway differs from the base."""

    name: str
    env: Mapping[str, str] = field(default_factory=dict)
    token: Mapping[str, Any] = field(default_factory=dict)


def features(redis: str | None, folder: Path, upstream: Upstream) -> list[Feature]:
    """All rows; those of Redis only where there is one (`host:port`)."""
    rules = folder / "rules.yaml"
    rules.write_text(_RULES.format(url=f"http://127.0.0.1:{upstream.port}"))
    found = [
        Feature("file of events", {"FILE_EVENT_LOG": str(folder / "events.jsonl")}),
        Feature("parameter rules", {"API_CONFIG_PATH": str(rules)}),
        Feature("budget of model tokens", token={"max_total_tokens": 2**50}),
        Feature("budget of money", token={"max_cost_usd": 1_000_000}),
        Feature("limit a minute", token={"requests_per_minute": 2**31 - 1}),
        Feature("cache off", {"HTTP_CACHE_ENABLED": "false"}),
    ]
    if redis is not None:
        at = {"REDIS_ADDR": redis}
        limits = {"DISTRIBUTED_RATE_LIMIT_ENABLED": "true", "DISTRIBUTED_RATE_LIMIT_MAX": str(2**31 - 1)}
        found += [
            Feature("redis-streams", at | {"LLM_PROXY_EVENT_BUS": "redis-streams"}),
            Feature("limits in Redis", at | limits),
            Feature("cache in Redis", at | {"HTTP_CACHE_BACKEND": "redis"}),
        ]
    return found


def measure(
    bench: Bench,
    cores: tuple[int, ...],
    order: random.Random,
    rounds: int,
    seconds: int,
    only: Sequence[str] = (),
) -> dict[str, Any]:
    """Measure the base twice, and all of them or `only` some; return the CPU of each and its price, as JSON."""
    folder, upstream = bench.folder, bench.upstream
    with ExitStack() as stack:
        redis = _redis(stack, folder, cores)
        databases = _databases(stack)
        gateways = [_gateway(stack, folder, cores, upstream, Feature(BASE))]
        known = [*features(redis, folder, upstream), *databases, *_tls(upstream)]
        rows = [Feature(AGAIN), *(each for each in known if not only or each.name in only)]
        gateways += [_gateway(stack, folder, cores, upstream, each) for each in rows]
        cpu: dict[str, list[float]] = {each.name: [] for each in gateways}
        for each in gateways:
            bench.throughput(each, 1)
        for number in range(1, rounds + 1):
            print(f"features: round {number} of {rounds} …", file=sys.stderr)
            for each in order.sample(gateways, len(gateways)):
                cpu[each.name].append(bench.throughput(each, seconds)[1])
    return prices(cpu)


def _gateway(stack: ExitStack, folder: Path, cores: tuple[int, ...], upstream: Upstream, feature: Feature) -> Gateway:
    place = folder / feature.name.replace(" ", "-").replace(",", "")
    found = Gateway(
        place,
        cores,
        upstream.port,
        feature.name,
        max_requests=MAX_REQUESTS,
        env=feature.env,
        token=feature.token,
    )
    stack.callback(found.stop)
    return found


def _databases(stack: ExitStack) -> list[Feature]:
    """Start PostgreSQL and MariaDB as the tests do, where they and the tests' packages are installed."""
    sys.path.append(str(ROOT / "tests"))
    try:
        from support.databases import MariaDb, Postgres, running
    except ImportError as error:
        print(f"features: rows of databases are left out: {error}; pip install -e '.[dev]'", file=sys.stderr)
        return []
    found = []
    for name, driver, kind in (("PostgreSQL", "postgres", Postgres), ("MySQL", "mysql", MariaDb)):
        try:
            server = stack.enter_context(running(kind))
            server.run("CREATE DATABASE bench")
        except (AssertionError, OSError) as error:
            print(f"features: {name} is left out: {error}", file=sys.stderr)
            continue
        found.append(Feature(name, {"DB_DRIVER": driver, "DATABASE_URL": server.url("bench")}))
    return found


def _tls(upstream: Upstream) -> list[Feature]:
    """Return the row of a provider behind TLS, where openssl could make a certificate."""
    if upstream.certificate is None:
        print("features: openssl is not installed, the row of TLS is left out", file=sys.stderr)
        return []
    url = f"https://localhost:{upstream.tls_port}"
    return [Feature("TLS upstream", {"OPENAI_API_URL": url, "REQUESTS_CA_BUNDLE": str(upstream.certificate)})]


def _redis(stack: ExitStack, folder: Path, cores: tuple[int, ...]) -> str | None:
    """Start a Redis that keeps nothing, where redis-server is installed."""
    server = shutil.which("redis-server")
    if server is None:
        print("features: redis-server is not installed, its rows are left out", file=sys.stderr)
        return None
    port = free_port()
    command = [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = Process(command, cores, folder / "redis.log", cwd=folder, env=os.environ)
    stack.callback(process.stop)
    process.wait_until(lambda: responds_to_ping(port))
    return f"127.0.0.1:{port}"
