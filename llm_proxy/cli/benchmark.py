"""`llm-proxy benchmark`: requests through a proxy, and where their time went."""

import http.client
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import SplitResult, urlsplit

import click
from gevent.pool import Pool

from llm_proxy.cli import output
from llm_proxy.cli.base import Command
from llm_proxy.cli.connection import Connection
from llm_proxy.cli.environment import load_settings
from llm_proxy.cli.errors import AuthenticationError, CommandError, NetworkError
from llm_proxy.cli.options import plain_option, read_secret
from llm_proxy.settings.variable import url

_TIMEOUT_S = 600.0
_CACHE_TTL_S = 86400
_WORDS = ("avg", "min", "max")
_HITS = ("hit", "conditional-hit")


@click.command(
    "benchmark",
    cls=Command,
    examples=(
        "PROXY_TOKEN=sk-… llm-proxy benchmark --base-url http://localhost:8080 \\",
        "    --endpoint /v1/chat/completions --json @body.json -r 100 -c 10",
    ),
)
@click.option("--base-url", required=True, metavar="URL", help="Proxy, or provider, to measure.")
@click.option("--endpoint", required=True, metavar="PATH", help="Path, such as /v1/chat/completions.")
@click.option("--token", metavar="TOKEN|-|@FILE", help="Bearer.")
@click.option("--token-env", default="PROXY_TOKEN", metavar="NAME", help="Variable of the bearer (PROXY_TOKEN).")
@plain_option("--requests", "-r", "total", type=click.IntRange(1), metavar="N", default=1, help="Requests in all (1).")
@plain_option("--concurrency", "-c", type=click.IntRange(1), metavar="N", default=1, help="Requests at once (1).")
@click.option("--json", "body", metavar="BODY", help="JSON body of each request; @FILE reads a file.")
@click.option("--method", default="POST", metavar="METHOD", help="Method (POST).")
@click.option("--cache", is_flag=True, help="Let the proxy store the responses.")
@plain_option("--cache-ttl", type=click.IntRange(0), metavar="S", default=0, help="For so long; 0 = 86400.")
@click.option("--debug", is_flag=True, help="Show each response's status and fields on stderr.")
@output.form_option
def benchmark(
    base_url: str,
    endpoint: str,
    token: str | None,
    token_env: str,
    total: int,
    concurrency: int,
    body: str | None,
    method: str,
    cache: bool,
    cache_ttl: int,
    debug: bool,
) -> None:
    """Send requests and tell latencies: in all, upstream's, the proxy's own.

    p90 mean is the mean of the fastest nine tenths. Exits with 1 if no request succeeded.
    """
    bearer = read_secret("--token", token) or _from_variable(token_env)
    if not bearer:
        raise AuthenticationError(f"no token: set {token_env} or give --token")
    fields = {"Authorization": f"Bearer {bearer}"}
    content = None
    if body is not None:
        content = (read_secret("--json", body) or "").encode()
        fields["Content-Type"] = "application/json"
    if cache:
        fields["Cache-Control"] = f"public, max-age={cache_ttl or _CACHE_TTL_S}"
    load = Load(_place(base_url), endpoint, method.upper(), fields, content, is_verbose=debug)
    began = time.monotonic()
    with output.working("Sending requests", lambda: f"{len(load.samples) + load.network_errors} of {total}"):
        load.run(total, concurrency)
    value = summary(load.samples, load.network_errors, concurrency, time.monotonic() - began)
    output.emit(value, lambda: _text(value))
    if not value["success"]:
        if not load.samples:
            raise NetworkError("no request was answered")
        raise CommandError("no request succeeded")


def _from_variable(name: str) -> str | None:
    return os.environ.get(name) or (load_settings().settings.commands.proxy_token if name == "PROXY_TOKEN" else None)


def _place(base_url: str) -> SplitResult:
    try:
        return urlsplit(url("http", "https")(base_url))
    except ValueError as exc:
        raise CommandError(f"--base-url: expected {exc}") from None


@dataclass(frozen=True, slots=True)
class Sample:
    """One response: seconds in all, seconds upstream (None: not told), and whether it came from the cache."""

    status: int
    total_s: float
    upstream_s: float | None
    is_hit: bool


@dataclass(slots=True)
class Load:
    """Sends the requests; a connection for each of the concurrent senders."""

    place: SplitResult
    endpoint: str
    method: str
    fields: Mapping[str, str] = field(repr=False)
    content: bytes | None
    is_verbose: bool = False
    samples: list[Sample] = field(default_factory=list)
    network_errors: int = 0

    def run(self, total: int, concurrency: int) -> None:
        """Send `total` requests, `concurrency` at once."""
        numbers = iter(range(total))
        pool = Pool(min(concurrency, total))
        for _ in range(min(concurrency, total)):
            pool.spawn(self._sender, numbers)
        pool.join(raise_error=True)

    def _sender(self, numbers: Iterator[int]) -> None:
        connection = Connection(self.place, timeout_s=_TIMEOUT_S)
        for _ in numbers:
            try:
                self.samples.append(self._one(connection))
            except (OSError, http.client.HTTPException):
                self.network_errors += 1
                connection.close()
        connection.close()

    def _one(self, connection: Connection) -> Sample:
        fields = {**self.fields, "X-REQUEST-START": str(time.time_ns())}
        began = time.monotonic()
        path = self.place.path.rstrip("/") + "/" + self.endpoint.lstrip("/")
        connection.request(self.method, path, body=self.content, headers=fields)
        response = connection.getresponse()
        response.read()
        total_s = time.monotonic() - began
        if self.is_verbose:
            self._tell(response)
        is_hit = (response.getheader("X-PROXY-CACHE") or "") in _HITS
        return Sample(response.status, total_s, None if is_hit else upstream_s(response), is_hit)

    def _tell(self, response: http.client.HTTPResponse) -> None:
        shown = {name: "***" if name.lower() == "authorization" else value for name, value in response.getheaders()}
        click.echo(f"HTTP {response.status} {json.dumps(shown)}", err=True)


def upstream_s(response: http.client.HTTPResponse) -> float | None:
    """Return what the response's fields say about the provider's time; None when they say nothing."""
    start, stop = response.getheader("X-UPSTREAM-REQUEST-START"), response.getheader("X-UPSTREAM-REQUEST-STOP")
    try:
        if start and stop:
            return max(0.0, (int(stop) - int(start)) / 1e9)
        received, final = response.getheader("X-Proxy-Received-At"), response.getheader("X-Proxy-Final-Response-At")
        if received and final:
            return max(0.0, (datetime.fromisoformat(final) - datetime.fromisoformat(received)).total_seconds())
    except (ValueError, TypeError):
        return None
    return None


def summary(samples: list[Sample], network_errors: int, concurrency: int, duration_s: float) -> dict[str, Any]:
    """All rows as values; latencies in milliseconds, None where nothing was measured."""
    good = [sample for sample in samples if sample.status < 400]
    told = [sample for sample in good if sample.upstream_s is not None]
    statuses = Counter(sample.status for sample in samples)
    return {
        "total_requests": len(samples) + network_errors,
        "concurrency": concurrency,
        "duration_s": round(duration_s, 3),
        "success": len(good),
        "failed": len(samples) - len(good) + network_errors,
        "requests_per_s": round((len(samples) + network_errors) / duration_s, 1) if duration_s else None,
        "latency_ms": _spread([sample.total_s for sample in good]),
        "cache_hits": sum(sample.is_hit for sample in good),
        "upstream_latency_ms": _spread([sample.upstream_s or 0.0 for sample in told]),
        "proxy_latency_ms": _spread([max(0.0, sample.total_s - (sample.upstream_s or 0.0)) for sample in told]),
        "statuses": {str(status): statuses[status] for status in sorted(statuses)},
        "network_errors": network_errors,
    }


def _spread(seconds: list[float]) -> dict[str, float | None]:
    names = ("avg", "min", "max", "p90", "p90_mean", "p99")
    if not seconds:
        return dict.fromkeys(names)
    ordered = sorted(seconds)
    most = ordered[: max(1, round(len(ordered) * 0.9))]
    last = ordered[min(len(ordered) - 1, round(len(ordered) * 0.99))]
    values = (sum(ordered) / len(ordered), ordered[0], ordered[-1], most[-1], sum(most) / len(most), last)
    return {name: round(value * 1000, 3) for name, value in zip(names, values, strict=True)}


def _text(value: Mapping[str, Any]) -> str:
    rows = [
        ("Total requests", value["total_requests"]),
        ("Concurrency", value["concurrency"]),
        ("Duration (s)", value["duration_s"]),
        ("Success", value["success"]),
        ("Failed", value["failed"]),
        ("Requests/sec", value["requests_per_s"]),
        *_latency_rows("", value["latency_ms"]),
        ("Cache hits", value["cache_hits"]),
        *_latency_rows("Upstream ", value["upstream_latency_ms"]),
        *_latency_rows("Proxy ", value["proxy_latency_ms"]),
        *((f"HTTP {status}", count) for status, count in value["statuses"].items()),
        ("Network error", value["network_errors"]),
    ]
    return output.table(("Metric", "Value"), rows)


def _latency_rows(whose: str, spread: Mapping[str, float | None]) -> Iterator[tuple[str, str | None]]:
    for name, number in spread.items():
        text = name.replace("_", " ")
        label = f"{whose}latency {text}" if whose else f"{text.capitalize() if text in _WORDS else text} latency"
        yield label, None if number is None else f"{number:g} ms"
