"""Dashboards and alert rules ask for metrics that exist, in expressions that Prometheus takes."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from chart import metric_names
from chart.engine import CHART, merged, render, sets
from chart.profiles import EVERYTHING

BOARDS = {path.stem: json.loads(path.read_text()) for path in sorted((CHART / "dashboards").glob("*.json"))}
ALERTS = Path(__file__).parent / "alerts.yaml"


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """All panels but the rows."""
    return [p for p in board["panels"] if p["type"] != "row"]


def rules() -> list[dict[str, Any]]:
    """The alert rules of the chart, as the operator hands them to Prometheus."""
    groups = render(EVERYTHING).one("PrometheusRule")["spec"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


EXPRESSIONS = [
    (f"{name}: {panel['title']}", target["expr"])
    for name, board in BOARDS.items()
    for panel in panels(board)
    for target in panel["targets"]
] + [(rule["alert"], rule["expr"]) for rule in rules()]


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS, ids=[w for w, _ in EXPRESSIONS])
def test_an_expression_asks_for_metrics_and_labels_that_exist(where: str, expression: str) -> None:
    """Each name is one of the program's (or of redis_exporter), each label is one of that metric's."""
    found = list(metric_names.asked_for(expression))
    labels = {label for label in re.findall(r"by \(([^)]*)\)", expression) for label in re.split(r"\s*,\s*", label)}
    own: set[str] = set()
    for name, matched in found:
        if name.startswith("redis_"):
            assert name in metric_names.REDIS_EXPORTER, f"{where}: {name}"
            own |= {"stream", "group"}
            continue
        assert name in metric_names.known(), f"{where}: {name}"
        its = {*metric_names.PROXY.get(name, ()), *metric_names.DISPATCHER.get(name, ())}
        assert matched <= its | metric_names.FROM_SCRAPING, f"{where}: {name} has no {matched}"
        own |= its
    assert labels <= own | metric_names.FROM_SCRAPING, f"{where}: {labels}"


def test_the_program_has_every_metric_that_is_asked_for() -> None:
    """A panel cannot be empty because of a name that the source does not state."""
    wanted = {n for _, expression in EXPRESSIONS for n, _ in metric_names.asked_for(expression) if n.startswith("llm_")}
    stated = metric_names.in_source()
    missing = {n for n in wanted if n not in stated and n.removesuffix("_total") not in stated}
    assert not missing - metric_names.AWAITED, sorted(missing)


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_is_one_that_grafana_imports(name: str) -> None:
    """Ids are unique, panels do not overlap, the data source is a variable, every panel says what it shows."""
    board = BOARDS[name]
    ids = [p["id"] for p in board["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells
    for panel in panels(board):
        assert panel["datasource"]["uid"] == "${DS_PROMETHEUS}", panel["title"]
        assert panel["description"], panel["title"]
        assert panel["targets"]
        assert all(t["datasource"]["uid"] == "${DS_PROMETHEUS}" for t in panel["targets"])
    assert next(v["name"] for v in board["templating"]["list"]) == "DS_PROMETHEUS"


def test_the_dashboard_has_the_promised_rows_panels_and_variables() -> None:
    """uid, refresh, range, variables, and every panel that was ordered, Python's in place of Go's."""
    board = BOARDS["llm-proxy"]
    assert (board["uid"], board["refresh"], board["time"]["from"]) == ("llm-proxy-dashboard", "10s", "now-1h")
    assert {"DS_PROMETHEUS", "job", "namespace", "pod"} == {v["name"] for v in board["templating"]["list"]}
    titles = {p["title"] for p in board["panels"]}
    wanted = {
        "Overview",
        "Uptime",
        "Request Rate",
        "Error Rate",
        "Cache Hit Ratio",
        "Request Metrics",
        "Request and Error Rate",
        "Cumulative Requests and Errors",
        "Latency",
        "Upstream Outcomes",
        "Rejections by Code",
        "In-flight",
        "Client Disconnects",
        "Cache Performance",
        "Cache Operations Rate",
        "Cache Hit Ratio Over Time",
        "Cumulative Cache Operations",
        "Runtime & Resources (Python)",
        "Memory",
        "Greenlets",
        "GC Frequency",
        "GC Pause Time Rate",
        "CPU",
        "Worker Processes",
        "Open File Descriptors",
        "Events",
        "Dispatcher",
        "Lag",
        "Sent and Dead-lettered",
        "Retries",
        "Send Latency",
        "Held",
    }
    assert wanted <= titles
    steps = {
        p["title"]: p["fieldConfig"]["defaults"]["thresholds"]["steps"] for p in panels(board) if p["type"] == "stat"
    }
    assert [(s["color"], s["value"]) for s in steps["Error Rate"]] == [("green", None), ("yellow", 0.01), ("red", 0.05)]
    assert [(s["color"], s["value"]) for s in steps["Cache Hit Ratio"]] == [
        ("red", None),
        ("yellow", 0.3),
        ("green", 0.7),
    ]
    redis = {p["title"] for p in panels(BOARDS["llm-proxy-redis"])}
    assert {"Redis Up", "Connected Clients", "Memory Used", "Commands/s", "Keyspace Hit Ratio", "Group Lag"} <= redis


def test_queries_aggregate_over_pods_and_use_grafanas_interval() -> None:
    """No lifetime counter is divided by another, and no rate has its own interval."""
    for where, expression in EXPRESSIONS:
        if ":" not in where:
            continue
        assert re.match(r"^(\d+ \* )?\(*(sum|min|max|histogram_quantile)\b", expression), f"{where}: {expression}"
        for interval in re.findall(r"rate\([^[]*\[([^]]*)\]", expression):
            assert interval == "$__rate_interval", where
        if "/" in expression.replace("$__rate_interval", ""):
            assert expression.count("rate(") >= 2, where
            assert "> 0) or vector(0)" in expression, where


@pytest.fixture(scope="module")
def promtool(tell: Callable[[str], object]) -> str | None:
    """The command `promtool`, where there is one."""
    found = shutil.which("promtool")
    if found is None:
        tell("rules and panels by Prometheus itself: promtool missing (Debian's prometheus)")
    return found


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_every_expression(tmp_path: Path, promtool: str | None) -> None:
    """`promtool check rules` parses each panel's query, with Grafana's variables filled in, and each alert."""
    if promtool is None:
        return
    records = [
        {"record": f"panel:{n}", "expr": re.sub(r"\$__rate_interval", "1m", e).replace("$", "")}
        for n, (_, e) in enumerate(EXPRESSIONS)
    ]
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": records}]}))
    _run(promtool, "check", "rules", str(file))
    file.write_text(yaml.safe_dump(render(EVERYTHING).one("PrometheusRule")["spec"]))
    _run(promtool, "check", "rules", str(file))


def test_each_alert_fires_when_it_should_and_only_then(tmp_path: Path, promtool: str | None) -> None:
    """`promtool test rules` with series of good and bad times, for every alert of the chart."""
    cases = yaml.safe_load(ALERTS.read_text())
    tested = {t["alertname"] for group in cases["tests"] for t in group["alert_rule_test"]}
    assert tested == {rule["alert"] for rule in rules()}
    if promtool is None:
        return
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(render(EVERYTHING).one("PrometheusRule")["spec"]))
    cases["rule_files"] = ["rules.yaml"]
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(cases, sort_keys=False))
    _run(promtool, "test", "rules", str(tmp_path / "tests.yaml"))


def test_thresholds_reach_the_rules() -> None:
    """A user's limits are the ones that the rules have."""
    values = merged([EVERYTHING, sets("metrics.prometheusRule.thresholds.dispatcherLag=5")])
    texts = [r["expr"] for g in render(values).one("PrometheusRule")["spec"]["groups"] for r in g["rules"]]
    assert any(text.strip().endswith("> 5") for text in texts)


def test_each_alert_has_a_chapter_in_the_operations_guide() -> None:
    """The runbook's link of every alert leads to a heading."""
    text = (CHART.parents[1] / "docs" / "operations.md").read_text()
    headings = {h.lower() for h in re.findall(r"^#+ (\w+)$", text, re.M)}
    for rule in rules():
        assert rule["annotations"]["runbook_url"].endswith(f"docs/operations.md#{rule['alert'].lower()}")
        assert rule["alert"].lower() in headings, rule["alert"]
