"""bin/bench runs, counts right, and says what it found."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[3] / "tools" / "bench"


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The bench as bin/bench starts it."""
    return subprocess.run([sys.executable, str(BENCH), *arguments], capture_output=True, text=True, timeout=110)


@pytest.mark.timeout(120)
def test_a_tiny_run_reports_targets_and_counts(tmp_path: Path) -> None:
    """Provider, load and token agree on every count, and each target has a line, in the table and in the JSON."""
    path = tmp_path / "bench.json"
    done = bench("--tiny", "--json", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(path.read_text())
    assert report["checks"]["failed"] == []
    assert report["checks"]["passed"] > 15
    assert {target["id"] for target in report["targets"]} == {"T1", "T2", "T4", "T5", "T6", "T7", "T8"}
    assert set(report["contestants"]) >= {"direct", "nginx", "server alone", "llm-proxy", "llm-proxy, streaming"}
    assert report["contestants"]["llm-proxy"]["cpu_us_per_request"] > 0
    for streams in ("streams_200", "streams_1000"):
        own = report["contestants"]["llm-proxy, streaming"][streams]
        assert own["whole"] == own["streams"] > 0
    for word in ("T1", "added latency p50", "http parser", "counts:"):
        assert word in done.stdout


@pytest.mark.timeout(120)
def test_another_gateway_is_measured_in_the_same_run(tmp_path: Path) -> None:
    """By its command; one that does not serve is left out, and said to be."""
    path, server = tmp_path / "peers.json", BENCH / "canned_app.py"
    gunicorn = f"{sys.executable} -m gunicorn --worker-class gthread --threads 8 --keep-alive 60"
    works = f"{gunicorn} --chdir {server.parent} --bind 127.0.0.1:{{port}} canned_app:app"
    fails = f"{sys.executable} -c 'import sys; sys.exit(\"no licence\")' {{port}}"
    done = bench("--tiny", "--peer", f"mine={works}", "--peer", f"other={fails}", "--json", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(path.read_text())["peers"]
    assert found["rows"].keys() == {"nginx", "llm-proxy", "mine"}
    assert all(row["cpu_us_per_request"] > 0 and row["memory_mib"] > 1 for row in found["rows"].values())
    assert found["left_out"] == {"other": "no licence"}
    assert "What is not equal:" in done.stdout


def test_help_explains_itself() -> None:
    """--help starts nothing and names the options."""
    done = bench("--help")
    assert done.returncode == 0
    for option in ("--quick", "--json PATH", "--rounds", "--features", "--peers", "--peer NAME=CMD", "--compare"):
        assert option in done.stdout
