"""All parts at work on this machine: provider, Redis, proxy, dispatcher and its service; and a real Prometheus."""

import contextlib
import json
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from support.dispatcher import Dispatcher, dispatching, until, variables
from support.gateway import Gateway, running_gateway
from support.processes import free_port
from support.provider import Provider, running_provider
from support.redis import RedisServer, running_redis
from support.services import Service
from support.services import running as running_service

JOB, NAMESPACE, POD = "llm-proxy", "default", "llm-proxy-6b9c7d5f8-x7k2p"
EXPORTER = "prometheus-redis-exporter"


@dataclass
class Stage:
    """What runs."""

    folder: Path
    provider: Provider
    redis: RedisServer
    proxy: Gateway
    dispatcher: Dispatcher
    service: Service


@contextlib.contextmanager
def stage(folder: Path, *provider_options: str, **settings: str) -> Iterator[Stage]:
    """All of it but Prometheus; `settings` are further variables of the proxy."""
    for name in ("provider", "redis", "proxy"):
        (folder / name).mkdir()
    with contextlib.ExitStack() as stack:
        provider = stack.enter_context(running_provider(folder / "provider", *provider_options))
        redis = stack.enter_context(running_redis(folder / "redis"))
        service = stack.enter_context(running_service("lunary"))
        wanted = {"LLM_PROXY_EVENT_BUS": "redis-streams", "REDIS_ADDR": redis.addr, "HTTP_CACHE_BACKEND": "redis"}
        proxy = stack.enter_context(running_gateway(folder / "proxy", provider.url, **wanted | settings))
        dispatcher = stack.enter_context(dispatching(folder, variables(redis, "lunary", service.url)))
        until(lambda: dispatcher.get("/ready")[0] == 200, why=dispatcher.text)
        yield Stage(folder, provider, redis, proxy, dispatcher, service)


@dataclass
class Prometheus:
    """A running server of Debian's package."""

    url: str

    def ask(self, path: str, **query: str) -> Any:
        """Return the `data` of a response of its API."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=30) as response:
            return json.loads(response.read())["data"]

    def value(self, expression: str) -> float | None:
        """Return the value of an expression now; None where it has none."""
        found = self.ask("query", query=expression)["result"]
        return float(found[0]["value"][1]) if found else None

    def series(self, expression: str, start_s: float, end_s: float, step_s: int) -> list[dict[str, Any]]:
        """Labels and `[[instant, value], …]` of each series."""
        found: list[dict[str, Any]] = self.ask(
            "query_range", query=expression, start=str(start_s), end=str(end_s), step=str(step_s)
        )["result"]
        return found

    def firing(self) -> set[str]:
        """Names of the alerts that fire now."""
        return {a["labels"]["alertname"] for a in self.ask("alerts")["alerts"] if a["state"] == "firing"}


def target(job: str, address: str, pod: str, **more: Any) -> dict[str, Any]:
    """Return a scrape job with one target, labelled as the operator would from the chart's ServiceMonitor."""
    labels = {"namespace": NAMESPACE, "pod": pod}
    return {"job_name": job, "static_configs": [{"targets": [address], "labels": labels}], **more}


def targets(on: Stage) -> list[dict[str, Any]]:
    """Return the proxy and the dispatcher."""
    path = {"metrics_path": "/metrics/prometheus"}
    return [
        target(JOB, on.proxy.url.removeprefix("http://"), POD, **path),
        target(f"{JOB}-dispatcher", on.dispatcher.health.removeprefix("http://"), "llm-proxy-dispatcher-0", **path),
    ]


@contextlib.contextmanager
def exporter(on: Stage) -> Iterator[dict[str, Any]]:
    """redis_exporter beside the stage's Redis, as a scrape job."""
    address = f"127.0.0.1:{free_port()}"
    words = [EXPORTER, f"--redis.addr=redis://{on.redis.addr}", f"--web.listen-address={address}"]
    words += ["--check-single-streams=llm-proxy-events", "--include-system-metrics"]
    with _running(words, on.folder / "exporter.log"):
        yield target(f"{JOB}-redis-events-metrics", address, "redis-0")


@contextlib.contextmanager
def prometheus(
    folder: Path, jobs: list[dict[str, Any]], interval_s: int, rules: dict[str, Any] | None = None
) -> Iterator[Prometheus]:
    """Scraping these jobs, with these rule groups."""
    home = folder / "prometheus"
    home.mkdir()
    every = {"scrape_interval": f"{interval_s}s", "scrape_timeout": "1s", "evaluation_interval": f"{interval_s}s"}
    config: dict[str, Any] = {"global": every, "scrape_configs": jobs}
    if rules is not None:
        (home / "rules.yml").write_text(yaml.safe_dump(rules))
        config["rule_files"] = ["rules.yml"]
    (home / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    words = ["prometheus", f"--config.file={home}/prometheus.yml", f"--storage.tsdb.path={home}/data"]
    words += [f"--web.listen-address={address}", "--log.level=warn"]
    with _running(words, home / "log"):
        server = Prometheus(f"http://{address}")
        until(lambda: _is_serving(f"{server.url}/-/ready"), why=(home / "log").read_text)
        yield server


def _is_serving(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@contextlib.contextmanager
def _running(words: list[str], log: Path) -> Iterator[None]:
    with log.open("wb") as out:
        process = subprocess.Popen(words, stdout=out, stderr=out)
    try:
        time.sleep(0.1)
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.terminate()
        process.wait(20)
