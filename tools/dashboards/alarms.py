"""Lets every alert of the chart fire, by breaking what it is about: `python -m dashboards.alarms`, by hand, 4 minutes.

A real Prometheus evaluates the rules as the chart renders them; only waiting times are shortened. Tests of the rules
with made-up series are in tests/chart/alerts.yaml. A small exporter stands in for Kubernetes: it asks /ready as kubelet
does, and shows what kube-state-metrics makes of it.
"""

import contextlib
import re
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from chart.engine import merged, render, sets
from chart.profiles import EVERYTHING

from dashboards.stage import NAMESPACE, POD, Prometheus, Stage, prometheus, stage, target, targets
from dashboards.traffic import traffic

QUICK = sets(
    *(f"metrics.prometheusRule.thresholds.{name}=1" for name in ("noTrafficMinutes", "notReadyMinutes")),
    "metrics.prometheusRule.thresholds.circuitOpenMinutes=1",
    "metrics.prometheusRule.thresholds.dispatcherLag=20",
)
LIMIT_S = 120.0


def rules() -> dict[str, Any]:
    """Return the chart's rules, with waits of two seconds and windows of half a minute at most."""
    spec: dict[str, Any] = render(merged([EVERYTHING, QUICK])).one("PrometheusRule")["spec"]
    for rule in (rule for group in spec["groups"] for rule in group["rules"]):
        rule["expr"] = re.sub(r"\[(5|10)m\]", "[30s]", rule["expr"])
        if "for" in rule:
            rule["for"] = "2s"
    return spec


@contextlib.contextmanager
def kubelet(on: Stage) -> Iterator[dict[str, Any]]:
    """Serve an exporter of kube_pod_status_ready, as a scrape job."""

    class Response(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                with urllib.request.urlopen(f"{on.proxy.url}/ready", timeout=5) as response:
                    is_ready = response.status == 200
            except OSError:
                is_ready = False
            labels = f'namespace="{NAMESPACE}",pod="{POD}",condition="true"'
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(f"kube_pod_status_ready{{{labels}}} {int(is_ready)}\n".encode())

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Response) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield target("kube-state-metrics", f"127.0.0.1:{server.server_address[1]}", "kube", honor_labels=True)
        server.shutdown()


class Watch:
    """Waits for alerts, and prints when they fire and when they end."""

    def __init__(self, server: Prometheus) -> None:
        self.server = server
        self.seen: set[str] = set()

    def until(self, *names: str) -> None:
        """All of these fire."""
        self._wait(names, lambda firing: set(names) <= firing)
        self.seen |= set(names)
        print("firing: ", *names, flush=True)

    def over(self, *names: str) -> None:
        """None of these fires any more."""
        self._wait(names, lambda firing: not set(names) & firing)
        print("over:   ", *names, flush=True)

    def _wait(self, names: tuple[str, ...], is_so: Callable[[set[str]], bool]) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not is_so(firing := self.server.firing()):
            assert time.monotonic() < deadline, f"wanted {names}, firing are {firing}"
            time.sleep(0.5)


def broken_service(on: Stage, watch: Watch) -> None:
    """Let the dispatcher's service refuse the key, then single events, then nothing."""
    on.service.fault = lambda call, body: 401
    watch.until("LlmProxyDispatcherHeld", "LlmProxyDispatcherLag")
    on.service.fault = lambda call, body: 400
    watch.over("LlmProxyDispatcherHeld")
    watch.until("LlmProxyDeadLetters")
    on.service.fault = lambda call, body: None
    watch.over("LlmProxyDispatcherLag")


def broken_provider(on: Stage, watch: Watch) -> None:
    """Let the provider close every connection."""
    on.provider.set_rules({"path": "/v1/*", "cut": "head"})
    watch.until("LlmProxyCircuitOpen", "LlmProxyErrorRatio")
    on.provider.set_rules()
    watch.over("LlmProxyCircuitOpen")


def broken_proxy(on: Stage, watch: Watch) -> None:
    """Redis is gone and there is no spool; then the schema is none that the code knows; then the server ends."""
    on.redis.kill()
    watch.until("LlmProxyEventsDropped")
    on.proxy.execute("UPDATE alembic_version SET version_num = '0000'")
    watch.until("LlmProxyNotReady")
    on.proxy.stop()
    watch.until("LlmProxyDown")


def main() -> None:
    """Break one thing after the other; raises AssertionError when an alert does not come."""
    with tempfile.TemporaryDirectory() as name:
        more = {"EVENT_SPOOL_DIR": "", "OBSERVABILITY_BUFFER_SIZE": "10", "HTTP_CACHE_BACKEND": "in-memory"}
        with (
            stage(Path(name), WEB_CONCURRENCY="2", **more) as on,
            kubelet(on) as ready,
            prometheus(on.folder, [*targets(on), ready], 1, rules()) as server,
        ):
            watch = Watch(server)
            watch.until("LlmProxyNoTraffic")
            with traffic(on.proxy):
                watch.over("LlmProxyNoTraffic")
                broken_service(on, watch)
                broken_provider(on, watch)
                broken_proxy(on, watch)
            wanted = {rule["alert"] for group in rules()["groups"] for rule in group["rules"]}
            assert watch.seen == wanted, wanted - watch.seen


if __name__ == "__main__":
    main()
