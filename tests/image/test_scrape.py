"""What a loaded proxy and a dispatcher really serve: clean metrics, and no panel of the dashboard that stays empty."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable

import yaml
from chart import metric_names
from chart.engine import CHART, Values, merged, render, sets
from image import containers, databases
from image.test_pods import NAMED, TOKEN, missing, serve, start

BOARD = json.loads((CHART / "dashboards" / "llm-proxy.json").read_text())
VALUES: Values = merged(
    [
        NAMED,
        sets(
            "env.LLM_PROXY_EVENT_BUS=redis-streams",
            "redis.external.addr=redis:6379",
            "dispatcher.enabled=true",
            "metrics.enabled=true",
            "env.OPENAI_API_URL=http://127.0.0.1:9000",
        ),
    ]
)
PROXY = "http://127.0.0.1:8080"
# Counted only when something goes wrong that no caller can bring about.
RARE = {
    "llm_proxy_events_dropped_total",
    "llm_proxy_quota_waits_total",
    "llm_proxy_lease_swaps_total",
    "llm_proxy_client_disconnects_total",
}


def load(pod: containers.Pod) -> None:
    """Calls of every kind: answered whole and streamed, refused, unknown, cached or not."""
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    body = json.dumps({"name": "p", "api_key": "sk-of-the-provider"})
    status, text = pod.request(f"{PROXY}/manage/projects", "POST", headers, body)
    assert status in (200, 201), text
    body = json.dumps({"project_id": json.loads(text)["id"], "duration_minutes": 60, "max_requests": 100})
    status, text = pod.request(f"{PROXY}/manage/tokens", "POST", headers, body)
    assert status in (200, 201), text
    mine = headers | {"Authorization": f"Bearer {json.loads(text)['token']}"}
    chat = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
    for stream in (False, True):
        status, text = pod.request(f"{PROXY}/v1/chat/completions", "POST", mine, json.dumps(chat | {"stream": stream}))
        assert status == 200, text
    for _ in range(2):
        assert pod.request(f"{PROXY}/v1/models", headers=mine)[0] == 200
    assert pod.request(f"{PROXY}/v1/nowhere", headers=mine)[0] == 404
    assert pod.request(f"{PROXY}/v1/models", headers=headers | {"Authorization": "Bearer sk-unknown"})[0] == 401


def test_panels_have_data_and_metrics_are_clean(pod: containers.Pod | None, tell: Callable[[str], object]) -> None:
    """`promtool check metrics` is content; a Prometheus that has scraped both responses each panel's query."""
    if pod is None or missing(tell, "redis-server", "prometheus", "promtool"):
        return
    prometheus(pod)  # first: its first scrape comes after five seconds
    databases.redis(pod)
    provider = pod.start("simulate-provider", "--listen", "127.0.0.1:9000")
    pod.wait("http://127.0.0.1:9000/v1/models", provider)
    rendering = render(VALUES)
    server = serve(pod, rendering)
    dispatcher = start(pod, rendering, "dispatcher")
    pod.wait("http://127.0.0.1:9090/ready", dispatcher)
    load(pod)
    deadline = time.monotonic() + 60
    left = queries()
    while left := unanswered(pod, left):
        assert time.monotonic() < deadline, [title for title, _ in left]
        time.sleep(0.5)
        load_again(pod)
    for url in (f"{PROXY}/metrics/prometheus", "http://127.0.0.1:9090/metrics/prometheus"):
        status, text = pod.request(url)
        assert status == 200
        checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout + checked.stderr
    assert dispatcher.stop() == 0, dispatcher.printed()
    assert server.stop() == 0, server.printed()


def load_again(pod: containers.Pod) -> None:
    """Rates need counters that move between two scrapes."""
    pod.request(f"{PROXY}/v1/nowhere", headers={"Authorization": "Bearer sk-unknown"})


def queries() -> list[tuple[str, str]]:
    """(panel, query) of the dashboard with its variables filled in, rare and awaited metrics left out."""
    left_out = RARE | metric_names.AWAITED
    return [
        (panel["title"], re.sub(r"\$(namespace|job|pod)\b", ".*", target["expr"].replace("$__rate_interval", "30s")))
        for panel in BOARD["panels"]
        for target in panel.get("targets", [])
        if not left_out & {name for name, _ in metric_names.asked_for(target["expr"])}
    ]


_ASK = """
import json, sys, urllib.parse, urllib.request
for expression in json.load(sys.stdin):
    query = urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen("http://127.0.0.1:9099/api/v1/query?" + query, timeout=10) as answer:
        print(len(json.load(answer)["data"]["result"]))
"""


def unanswered(pod: containers.Pod, asked: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The queries to which Prometheus has no response yet, asked by one process to save starts."""
    command = pod.inside(["/usr/bin/python3", "-c", _ASK])
    expressions = json.dumps([expression for _, expression in asked])
    done = subprocess.run(command, input=expressions, capture_output=True, text=True, timeout=60, env={})
    assert done.returncode == 0, done.stderr
    return [query for query, number in zip(asked, done.stdout.split(), strict=True) if number == "0"]


def prometheus(pod: containers.Pod) -> None:
    """Debian's Prometheus, scraping both as the chart's ServiceMonitors have it."""
    folder = pod.folder / "prometheus"
    folder.mkdir()
    labels = {"namespace": "default", "pod": "a"}
    jobs = [("llm-proxy", "127.0.0.1:8080"), ("llm-proxy-dispatcher", "127.0.0.1:9090")]
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [
            {
                "job_name": name,
                "metrics_path": "/metrics/prometheus",
                "static_configs": [{"targets": [target], "labels": labels}],
            }
            for name, target in jobs
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    words = [str(shutil.which("prometheus")), f"--config.file={folder}/prometheus.yml"]
    words += [f"--storage.tsdb.path={folder}/data", "--web.listen-address=127.0.0.1:9099", "--log.level=warn"]
    pod.wait("http://127.0.0.1:9099/-/ready", pod.spawn(words))


def test_the_parts_left_out_are_few() -> None:
    """The check above looks at most of the dashboard."""
    asked = [t for panel in BOARD["panels"] for t in panel.get("targets", [])]
    assert len(queries()) > len(asked) / 2
