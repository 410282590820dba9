"""Lines: their form, their level, what they never hold, and where they end up."""

import json
import logging
import os
import re
import threading
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from llm_proxy import logs
from llm_proxy.runtime.append_file import AppendFile
from llm_proxy.settings import load

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[Path]:
    """A log file that this process's loggers write to; their former set-up is put back."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level, logs._writer)
    yield tmp_path / "logs" / "proxy.log"
    logs.stop()
    root.handlers[:], logs._writer = before[0], before[2]
    root.setLevel(before[1])
    logging.captureWarnings(False)


def configure(path: Path, **variables: str) -> None:
    """Set up as the environment says."""
    logs.configure(load({"LOG_FILE": str(path), **variables}).checked())


def written(path: Path) -> list[dict[str, Any]]:
    """The lines."""
    logs.flush()
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_record_becomes_one_json_line(log_file: Path) -> None:
    """level, ts, msg, component, the extra fields and the caller; folder made, mode 0640."""
    configure(log_file)
    logging.getLogger("llm_proxy.db.migrate").warning("moved %d rows", 5, extra={"project_id": "p"})
    (line,) = written(log_file)
    assert list(line)[:3] == ["level", "ts", "msg"]
    assert (line["level"], line["msg"], line["component"], line["project_id"]) == (
        "warn",
        "moved 5 rows",
        "db.migrate",
        "p",
    )
    assert LINE.fullmatch(str(line["ts"]))
    assert str(line["caller"]).startswith("test_logs.py:")
    assert log_file.stat().st_mode & 0o777 == 0o640


def test_an_exception_is_one_record_with_its_stack(log_file: Path) -> None:
    """The stack is in the line, the secrets in it are not."""
    configure(log_file)
    try:
        raise ValueError("Bearer sk-AbCdEfGhIjKlMnOpQrStUv")
    except ValueError:
        logging.getLogger("anything").exception("failed")
    (line,) = written(log_file)
    assert (line["error"], line["level"]) == ("ValueError", "error")
    assert "Traceback" in str(line["stacktrace"])
    assert "sk-AbCdEfGhIjKlMnOpQrStUv" not in str(line)


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 3), ("WARNING", 2), ("error", 1)])
def test_levels(log_file: Path, level: str, count: int) -> None:
    """LOG_LEVEL in any case, `warning` for `warn`."""
    configure(log_file, LOG_LEVEL=level)
    for severity in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logging.getLogger("llm_proxy.x").log(severity, "said")
    assert len(written(log_file)) == count


@pytest.mark.parametrize("form", ["text", "console"])
def test_text_is_for_people_and_stays_one_line(log_file: Path, form: str) -> None:
    """Time, level, message, key=value; newlines and controls escaped, no colour in a file."""
    configure(log_file, LOG_FORMAT=form)
    logging.getLogger("x").info("two\nlines \x1b[31m", extra={"note": "with blank", "n": 5})
    logs.flush()
    (line,) = log_file.read_text().splitlines()
    assert re.fullmatch(
        rf'{LINE.pattern} info  two\\nlines \\x1b\[31m component=x note="with blank" n=5 caller=\S+', line
    )


@pytest.mark.parametrize(
    ("status", "level", "message"),
    [
        (200, "info", "request completed"),
        (499, "info", "request completed"),
        (500, "error", "request completed with server error"),
    ],
)
def test_the_access_line(log_file: Path, status: int, level: str, message: str) -> None:
    """Its level and message go by the status."""
    configure(log_file)
    access = logs.AccessLog("info")
    access.completed(
        status=status,
        method="GET",
        path="/v1/x",
        duration_s=0.0126,
        request_id="r",
        client_ip="1.2.3.4",
        fields={"a": 1},
    )
    (line,) = written(log_file)
    assert (line["level"], line["msg"], line["status_code"], line["duration_ms"], line["a"]) == (
        level,
        message,
        status,
        13,
        1,
    )


def test_a_secret_that_a_client_sends_as_an_id_is_hidden(log_file: Path) -> None:
    """In request id, correlation id and path alike."""
    configure(log_file)
    key = "sk-provider-0123456789abcdef"
    about: dict[str, Any] = {
        "method": "GET",
        "path": f"/{key}",
        "request_id": key,
        "client_ip": None,
        "fields": {"correlation_id": key},
    }
    logs.AccessLog("info").completed(status=200, duration_s=0, **about)
    assert key not in log_file.read_text()
    assert written(log_file)[0]["correlation_id"] == "sk-provi...cdef"


def test_what_clients_make_long_is_cut(log_file: Path) -> None:
    """A path of 8 KB and the trace of a deep recursion."""
    configure(log_file)
    logs.AccessLog().completed(
        status=200, method="GET", path="/" + "a" * 8000, duration_s=0, request_id="r", client_ip=None
    )
    try:
        raise ValueError("first" + "x" * 100_000 + "last")
    except ValueError:
        logging.getLogger("x").exception("deep")
    access, fault = written(log_file)
    assert len(access["path"]) == 2048
    assert len(fault["stacktrace"]) < 8300
    assert "Traceback" in fault["stacktrace"]
    assert fault["stacktrace"].endswith("last\n")


def test_probes_are_quiet(log_file: Path) -> None:
    """At debug they appear, otherwise not, failing or not."""
    configure(log_file)
    for level in ("info", "debug"):
        for status in (200, 503):
            logs.AccessLog(level).completed(
                status=status, method="GET", path="/ready", duration_s=0, request_id="r", client_ip=None, is_quiet=True
            )
    assert len(written(log_file)) == 2


def test_a_renamed_file_is_left_behind(log_file: Path) -> None:
    """Lines go to the file that has the name."""
    configure(log_file)
    logging.getLogger("x").info("one")
    log_file.rename(log_file.with_suffix(".old"))
    logging.getLogger("x").info("two")
    assert [line["msg"] for line in written(log_file)] == ["two"]


def test_a_file_that_cannot_be_written_is_a_fault(tmp_path: Path) -> None:
    """Named in a line, before anything is made."""
    blocked = tmp_path / "file"
    blocked.touch()
    for path, is_good in (
        (tmp_path / "a" / "b" / "log", True),
        (blocked, True),
        (blocked / "log", False),
        (tmp_path, False),
    ):
        found = logs.fault(load({"LOG_FILE": str(path)}).settings.operation)
        assert (found is None) == is_good
        assert is_good or str(found).startswith(f"LOG_FILE={path}: expected a ")
    assert not (tmp_path / "a").exists()


def test_rotation_keeps_so_many_backups(tmp_path: Path) -> None:
    """file, file.1 … file.N; the oldest goes."""
    sink = AppendFile(tmp_path / "log", mode=0o640, max_bytes=100, backups=2)
    for number in range(10):
        sink.write(b"%d" % number + b"x" * 58 + b"\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "log.1", "log.2"]
    assert [(tmp_path / name).read_bytes()[:1] for name in ("log", "log.1", "log.2")] == [b"9", b"8", b"7"]


def _write_many(path: Path, name: int) -> None:
    sink = AppendFile(path, mode=0o640, max_bytes=20_000, backups=1000)
    for number in range(1000):
        sink.write(b"%d-%04d %b\n" % (name, number, b"x" * 80))


def test_rotation_is_safe_over_several_processes(tmp_path: Path) -> None:
    """Four processes, a rotation each 20 kB: no line is lost or torn, no file much too long."""
    path = tmp_path / "log"
    context = get_context("fork" if os.name == "posix" else None)
    writers = [context.Process(target=_write_many, args=(path, name)) for name in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    lines = [line for file in tmp_path.iterdir() for line in file.read_bytes().splitlines()]
    assert all(len(line) == 87 for line in lines)
    assert {line[:6] for line in lines} == {b"%d-%04d" % (name, number) for name in range(4) for number in range(1000)}
    assert max(file.stat().st_size for file in tmp_path.iterdir()) <= 20_000 + 4 * 88


class _Slow:
    """A sink that has stopped taking lines."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, lines: bytes) -> None:
        self.written += lines

    def reopen(self) -> None: ...


def test_a_full_queue_drops_the_oldest_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue is bounded; what was lost is counted in a line."""
    monkeypatch.setattr(logs, "QUEUE_BOUND", 10)
    sink = _Slow()
    writer = logs.Writer(sink)
    writer._lines._greenlet, writer._lines._work = (
        object(),
        threading.Event(),
    )  # as after `start`, without a greenlet that flushes
    for number in range(25):
        writer.line("info", f"line {number}", {})
    writer.flush()
    found = [json.loads(line)["msg"] for line in sink.written.splitlines()]
    assert found == [*(f"line {number}" for number in range(15, 25)), "15 log lines dropped"]


@pytest.mark.parametrize(
    ("level", "message", "fields", "line"),
    [
        (
            "info",
            "request completed",
            {"component": "access", "method": "POST", "path": "/v1/x", "status_code": 200, "duration_ms": 541,
             "upstream_duration_ms": 527.4, "request_id": "r"},
            "POST /v1/x 200 541 ms (provider 527)",
        ),
        (
            "error",
            "request completed",
            {"component": "access", "method": "GET", "path": "/v1/y", "status_code": 502, "duration_ms": 3,
             "error": "bad gateway"},
            'GET /v1/y 502 3 ms "bad gateway"',
        ),
        ("info", "llm-proxy starts", {"component": "server", "workers": 1}, "llm-proxy starts"),
        ("warn", "odd", {"component": "server", "caller": "x.py:1", "count": 2}, "warn odd count=2"),
    ],
)  # fmt: skip
def test_a_person_at_a_terminal_gets_one_short_line(
    level: str, message: str, fields: dict[str, object], line: str
) -> None:
    """Time, what happened and how it went; the rest stands in the other forms."""
    sink = _Slow()
    logs.Writer(sink, is_json=False, is_short=True).line(level, message, fields)
    assert re.fullmatch(rf"\d\d:\d\d:\d\dZ {re.escape(line)}\n", sink.written.decode())
