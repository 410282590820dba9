"""Counts of several processes become one, also when processes die."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from chart import metric_names

from llm_proxy import metrics
from llm_proxy.housekeeping import JOBS

COUNT = """
import os, signal
from llm_proxy import metrics
metrics.REQUESTS.inc(3)
metrics.upstream_requests["2xx"].inc()
metrics.rejected("draining").inc(2)
metrics.request_duration("GET", 200).observe(0.3)
metrics.request_duration("PROPFIND", 200).observe(0.3)
metrics.SAMPLER.sample()
print(os.getpid(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
SCRAPE = """
import json
from llm_proxy import metrics
print(json.dumps([metrics.totals(), metrics.text().decode()]))
"""
SCRAPE_ALL = f"from llm_proxy import runtime_metrics\n{SCRAPE}"
FOLD = """
import os, sys
from llm_proxy import metrics
for pid in sys.argv[2:]:
    metrics.fold_dead_worker(sys.argv[1], int(pid))
print(os.getpid())
"""
FORK = """
import os
from llm_proxy import metrics
metrics.REQUESTS.inc()
metrics.FIRST_BYTE.observe(0.3)
for _ in range(2):
    if os.fork() == 0:
        for _ in range(10):
            metrics.REQUESTS.inc()
            metrics.FIRST_BYTE.observe(0.3)
            metrics.rejected(f"made after the fork {os.getpid()}").inc()
        os._exit(0)
    os.wait()
metrics.REQUESTS.inc()
"""
CLEAR = "import sys; from llm_proxy import metrics; metrics.clear_folder(sys.argv[1])"


def run(folder: Path, code: str, *arguments: str) -> str:
    """Run in its own process, as a worker or master of a server with that folder."""
    env = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=env, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    return done.stdout


def scrape(folder: Path) -> tuple[dict[str, float], str]:
    """Both forms."""
    totals, text = json.loads(run(folder, SCRAPE))
    return totals, text


def test_forked_processes_count_apart_and_sum_up(tmp_path: Path) -> None:
    """What the master counted is not counted again by its workers, which write their own files."""
    run(tmp_path, FORK)
    totals, text = scrape(tmp_path)
    assert totals["request_count"] == 22
    assert "llm_proxy_time_to_first_byte_seconds_count 21.0" in text
    assert re.findall(r'rejected_total\{code="made after the fork .*"\} ([0-9.]+)', text) == ["10.0", "10.0"]


def test_dead_workers_are_folded(tmp_path: Path) -> None:
    """Ten killed workers: two files are left, sums exact, gauges gone."""
    run(tmp_path, CLEAR, str(tmp_path))
    first = [run(tmp_path, COUNT).strip() for _ in range(6)]
    masters = {run(tmp_path, FOLD, str(tmp_path), *first).strip()}
    second = [run(tmp_path, COUNT).strip() for _ in range(4)]
    masters.add(run(tmp_path, FOLD, str(tmp_path), *second).strip())
    left = {path.name for path in tmp_path.glob("*.db") if path.stem.rpartition("_")[2] not in masters}
    totals, text = scrape(tmp_path)
    assert left == {"counter_0.db", "histogram_0.db"}
    assert totals["request_count"] == 30
    assert 'llm_proxy_rejected_total{code="draining"} 20.0' in text
    assert 'llm_proxy_request_duration_seconds_count{method="GET",status_class="2xx"} 10.0' in text
    assert 'llm_proxy_request_duration_seconds_count{method="other",status_class="2xx"} 10.0' in text
    assert "llm_proxy_workers 1.0" in text  # the scraping process itself


def test_a_start_empties_the_folder(tmp_path: Path) -> None:
    """What an earlier server counted is gone; uptime begins again."""
    run(tmp_path, CLEAR, str(tmp_path))
    run(tmp_path, COUNT)
    os.utime(tmp_path / "boot", (1, 1))
    assert scrape(tmp_path)[0]["uptime_seconds"] > 1e6
    run(tmp_path, CLEAR, str(tmp_path))
    totals, _ = scrape(tmp_path)
    assert (totals["request_count"], totals["uptime_seconds"] < 60) == (0, True)


def test_every_metric_is_documented_in_its_help(tmp_path: Path) -> None:
    """HELP and TYPE for each family; no `_created` series; required names without labels."""
    _, text = scrape(tmp_path)
    for name in re.findall(r"^# TYPE (\S+)", text, re.MULTILINE):
        assert re.search(rf"^# HELP {name} \S+", text, re.MULTILINE)
    assert "_created" not in text
    for name in ("requests", "errors", "cache_hits", "cache_misses", "cache_bypass", "cache_stores"):
        assert re.search(rf"^llm_proxy_{name}_total 0.0$", text, re.MULTILINE)


def test_every_metric_is_there_before_it_counts(tmp_path: Path) -> None:
    """Rates need a zero to begin at: all names but those by code and method, and these after their first request."""
    names = re.compile(r"^# TYPE (\S+)", re.MULTILINE)
    late = {"llm_proxy_rejected_total", "llm_proxy_request_duration_seconds"}
    assert set(names.findall(json.loads(run(tmp_path, SCRAPE_ALL))[1])) == set(metric_names.PROXY) - late
    run(tmp_path, COUNT)
    assert set(names.findall(json.loads(run(tmp_path, SCRAPE_ALL))[1])) == set(metric_names.PROXY)
    assert set(metrics.housekeeping_rows) == set(JOBS)


@pytest.mark.parametrize("is_multiprocess", [True, False])
def test_both_modes_have_the_same_names(tmp_path: Path, is_multiprocess: bool) -> None:
    """`flask run` without a folder shows what a server shows."""
    env = {k: v for k, v in os.environ.items() if k != "PROMETHEUS_MULTIPROC_DIR"}
    if is_multiprocess:
        env["PROMETHEUS_MULTIPROC_DIR"] = str(tmp_path)
    out = subprocess.run([sys.executable, "-c", SCRAPE], env=env, capture_output=True, text=True, check=True).stdout
    totals, text = json.loads(out)
    assert list(totals) == [
        "uptime_seconds",
        "request_count",
        "error_count",
        "cache_hits",
        "cache_misses",
        "cache_bypass",
        "cache_stores",
    ]
    assert re.search(r"^llm_proxy_uptime_seconds \d", text, re.MULTILINE)
    assert re.search(r"^llm_proxy_requests_total 0.0$", text, re.MULTILINE)


@pytest.mark.parametrize(("by", "earlier"), [("recovered", "mate"), ("lapsed", "silence")])
def test_settled_units_count_under_the_earlier_label_too(by: str, earlier: str) -> None:
    """Dashboards of the release before go on; units that came back are none."""
    before = [metrics.units_settled[label]._value.get() for label in (by, earlier)]
    metrics.count_settled(by, 3)
    metrics.count_settled(by, -1)
    assert [metrics.units_settled[label]._value.get() for label in (by, earlier)] == [value + 3 for value in before]
