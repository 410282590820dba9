"""`bin/log-search` finds lines by what they say."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from llm_proxy.cli.log_search import log_search

LINES = [
    {
        "level": "info",
        "request_id": "r1",
        "project_id": "p1",
        "path": "/v1/models",
        "status_code": 200,
        "duration_ms": 5,
    },
    {
        "level": "info",
        "request_id": "r2",
        "correlation_id": "c",
        "path": "/v1/files",
        "status_code": 404,
        "duration_ms": 90,
    },
    {"level": "error", "request_id": "r3", "project_id": "p1", "path": "/v1/x", "status_code": 502, "duration_ms": 700},
    {"level": "warn", "msg": "no request"},
]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("", [0, 1, 2, 3]),
        ("--request-id r2", [1]),
        ("--correlation-id c", [1]),
        ("--project p1", [0, 2]),
        ("--errors", [2]),
        ("--slow 90", [1, 2]),
        ("--status 404", [1]),
        ("--status-min 404", [1, 2]),
        ("--path models", [0]),
        ("--project p1 --slow 100", [2]),
        ("--status 599", []),
    ],
)
def test_lines_that_fit_everything_asked_are_printed(tmp_path: Path, asked: str, found: list[int]) -> None:
    """As they stand, in their order, from a file and from stdin alike; what is no JSON is passed over."""
    written = [json.dumps(line) for line in LINES]
    log = tmp_path / "log"
    log.write_text("\n".join(["text form", *written, "[]"]) + "\n")
    for where, given in ((["--file", str(log)], None), (["--file", "-"], log.read_text())):
        done = CliRunner().invoke(log_search, [*asked.split(), *where], input=given)
        assert done.exit_code == 0
        assert done.stdout.splitlines() == [written[index] for index in found]


def test_a_log_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    """Named, and exit code 1."""
    done = CliRunner().invoke(log_search, ["--file", str(tmp_path / "none")])
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "none cannot be read" in done.stderr
