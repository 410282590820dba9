"""`llm-proxy events` and `llm-proxy dispatcher` as people type them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.dispatcher import event_uuid, make_event, until
from support.gateway import eventually
from support.processes import free_port
from support.redis import RedisServer, running_redis
from support.services import KEY, running

from llm_proxy.events.event import Event
from llm_proxy.events.file_sink import to_line

STREAM, LIST = "llm-proxy-events", "llm-proxy-events:list"


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One for all; each test empties it first."""
    with running_redis(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture
def empty(redis: RedisServer) -> RedisServer:
    """The same, emptied."""
    redis.client().flushall()
    return redis


def environment(**variables: str) -> dict[str, str]:
    """Nothing but what a command needs."""
    return {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **variables}


def command(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run to the end."""
    told = [sys.executable, "-m", "llm_proxy.cli", *arguments]
    return subprocess.run(told, env=environment(**variables), cwd=folder, capture_output=True, text=True, timeout=60)


def on_streams(redis: RedisServer) -> dict[str, str]:
    """Variables of the stream bus."""
    return {"LLM_PROXY_EVENT_BUS": "redis-streams", "REDIS_ADDR": redis.addr}


def timed(n: int, ago: timedelta, **more: Any) -> Event:
    """An event of that long ago."""
    return make_event(n, started_at=datetime.now(UTC) - ago, **more)


def fill(redis: RedisServer, *events: Event) -> None:
    """Onto the stream."""
    client = redis.client()
    for event in events:
        client.xadd(STREAM, {"data": event.to_wire()})


def ids(output: str) -> list[str]:
    """Of JSON lines."""
    return [json.loads(line)["RequestID"] for line in output.splitlines()]


# -- tail ------------------------------------------------------------------------------------------------------------


def test_tail_shows_and_filters_what_is_on_the_stream(tmp_path: Path, empty: RedisServer) -> None:
    """By project, status and path; people get a line, --json the event; no colours outside of a terminal."""
    fill(empty, make_event(1), make_event(2, project="q", status=503), make_event(3, path="/v1/models", status=404))
    told = on_streams(empty)

    def tail(*filters: str) -> list[str]:
        found = command(tmp_path, "events", "tail", "--no-follow", "--json", *filters, **told)
        assert found.returncode == 0, found.stderr
        return ids(found.stdout)

    assert tail() == ["request-1", "request-2", "request-3"]
    assert tail("--project-id", "q") == ["request-2"]
    assert tail("--status", "503") == tail("--status", "5xx") == ["request-2"]
    assert tail("--status", "errors") == ["request-2", "request-3"]
    assert tail("--path", "/v1/chat") == ["request-1", "request-2"]
    assert tail("-n", "1") == ["request-3"]
    text = command(tmp_path, "events", "tail", "--no-follow", **told).stdout
    assert "503  POST" in text
    assert "\x1b" not in text
    assert command(tmp_path, "events", "tail", "--status", "x", **told).returncode == 1


@pytest.mark.parametrize("source", ["stream", "list", "file"])
def test_tail_follows(tmp_path: Path, empty: RedisServer, source: str) -> None:
    """What comes after it was started; nothing is consumed."""
    path, arguments, told = tmp_path / "events.jsonl", list[str](), dict[str, str]()
    if source == "file":
        path.write_bytes(to_line(make_event(1)))
        told = {"FILE_EVENT_LOG": str(path)}
    else:
        told = on_streams(empty) | ({"LLM_PROXY_EVENT_BUS": "redis"} if source == "list" else {})
        empty.client().lpush(LIST, make_event(1).to_wire())
        fill(empty, make_event(1))
    log = tmp_path / "out"
    with log.open("wb") as out:
        words = [sys.executable, "-m", "llm_proxy.cli", "events", "tail", "--json", *arguments]
        process = subprocess.Popen(words, env=environment(**told), cwd=tmp_path, stdout=out, stderr=out)
    try:
        eventually(lambda: "request-1" in log.read_text(), 15, log.read_text)
        if source == "file":
            path.rename(tmp_path / "old")
            path.write_bytes(to_line(make_event(2)))
        else:
            empty.client().lpush(LIST, make_event(2).to_wire())
            fill(empty, make_event(2))
        eventually(lambda: "request-2" in log.read_text(), 15, log.read_text)
    finally:
        process.kill()
        process.wait()
    assert ids(log.read_text()) == ["request-1", "request-2"]
    assert empty.client().llen(LIST) == (0 if source == "file" else 2)


def test_tail_says_what_it_needs(tmp_path: Path) -> None:
    """In memory without a file: exit 1 and why. Redis not there: exit 2."""
    found = command(tmp_path, "events", "tail")
    assert (found.returncode, "FILE_EVENT_LOG" in found.stderr) == (1, True)
    away = {"LLM_PROXY_EVENT_BUS": "redis-streams", "REDIS_ADDR": "127.0.0.1:9"}
    assert command(tmp_path, "events", "tail", **away).returncode == 2
    assert command(tmp_path, "events", "tail", "--file", "nothing").returncode == 1


# -- replay ----------------------------------------------------------------------------------------------------------


def test_replay_delivers_a_span_of_the_stream(tmp_path: Path, empty: RedisServer) -> None:
    """--from and --to by the requests' times; to any back end; other methods are skipped."""
    hours = [timedelta(hours=h) for h in (5, 4, 3, 2)]
    fill(empty, *(timed(n, ago) for n, ago in enumerate(hours)), timed(9, hours[2], method="GET"))
    with running("lunary") as service:
        arguments = ["--service", "lunary", "--endpoint", service.url, "--from", "4h30m", "--to", "2h30m", "--json"]
        found = command(tmp_path, "events", "replay", *arguments, LLM_PROXY_API_KEY=KEY, **on_streams(empty))
        assert found.returncode == 0, found.stderr
        assert json.loads(found.stdout) == {"delivered": 2, "skipped": 1, "failed": 0}
        assert list(service.accepted) == [str(event_uuid(n)) for n in (1, 2)]


def test_replay_reads_the_file_and_says_what_failed(tmp_path: Path) -> None:
    """Lines of the file sink; a refused event is counted, the others are delivered, exit 1."""
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"".join(to_line(make_event(n)) for n in range(5)) + b"half a li")
    bad = str(event_uuid(3)).encode()
    with running("lunary") as service:
        service.fault = lambda call, body: 400 if bad in body else None
        arguments = ["--service", "lunary", "--endpoint", service.url, "--file", str(path)]
        found = command(tmp_path, "events", "replay", *arguments, LLM_PROXY_API_KEY=KEY)
        assert found.returncode == 1
        assert "4 delivered, 0 skipped, 1 failed" in found.stdout
        assert "HTTP 400" in found.stderr
        assert len(service.accepted) == 4


def test_replay_to_a_file(tmp_path: Path, empty: RedisServer) -> None:
    """The documented lines."""
    fill(empty, make_event(1))
    found = command(tmp_path, "events", "replay", "--endpoint", "out.jsonl", **on_streams(empty))
    assert found.returncode == 0, found.stderr
    assert json.loads((tmp_path / "out.jsonl").read_text())["runId"] == str(event_uuid(1))


@pytest.mark.parametrize("moment", ["yesterday", "2026-13-01"])
def test_a_moment_that_is_none_is_refused(tmp_path: Path, moment: str) -> None:
    """Naming what is accepted."""
    found = command(tmp_path, "events", "replay", "--from", moment)
    assert (found.returncode, "2026-01-31T12:00:00Z" in found.stderr) == (1, True)


# -- dispatcher ------------------------------------------------------------------------------------------------------


def test_flags_win_over_variables_and_no_key_shows(tmp_path: Path, empty: RedisServer) -> None:
    """--service, --endpoint, --api-key-file, --batch-size …; the process list knows no key."""
    (tmp_path / "key").write_text(KEY)
    fill(empty, *(make_event(n) for n in range(25)))
    with running("lunary") as service:
        arguments = ["--service", "lunary", "--endpoint", service.url, "--api-key-file", "key", "--batch-size", "10"]
        arguments += ["--health-addr", "", "--once", "--flush-interval", "100ms", "--verbose"]
        told = on_streams(empty) | {"DISPATCHER_SERVICE": "file", "DISPATCHER_ENDPOINT": "x", "LLM_PROXY_API_KEY": "no"}
        found = command(tmp_path, "dispatcher", *arguments, **told)
        assert found.returncode == 0, found.stdout + found.stderr
        assert (len(service.accepted), service.calls) == (25, 3)
        assert "response_headers_content_type" in service.events[0]["metadata"]
        assert KEY not in found.stdout + found.stderr


def test_a_key_on_the_command_line_is_warned_about(tmp_path: Path, empty: RedisServer) -> None:
    """It shows in the process list until the command has become the dispatcher."""
    with running("lunary") as service:
        arguments = ["--service", "lunary", "--endpoint", service.url, "--api-key", KEY, "--once", "--health-addr", ""]
        found = command(tmp_path, "dispatcher", *arguments, **on_streams(empty))
        assert found.returncode == 0, found.stdout + found.stderr
        assert "process list" in found.stderr
        assert KEY not in found.stderr


def test_detached_it_runs_on_in_a_session_of_its_own(tmp_path: Path, empty: RedisServer) -> None:
    """The pid is printed and written; SIGTERM ends it; without a log file it is refused."""
    told = on_streams(empty) | {"DISPATCHER_HEALTH_ADDR": f"127.0.0.1:{free_port()}"}
    assert "--log-file" in command(tmp_path, "dispatcher", "--detach", **told).stderr
    arguments = ["--detach", "--log-file", "d.log", "--pid-file", "run/d.pid", "--endpoint", "out.jsonl"]
    found = command(tmp_path, "dispatcher", *arguments, "--flush-interval", "50ms", **told)
    assert found.returncode == 0, found.stderr
    pid = int(found.stdout)
    try:
        assert int((tmp_path / "run" / "d.pid").read_text()) == pid
        assert os.getsid(pid) == pid
        fill(empty, make_event(1))
        out = tmp_path / "out.jsonl"
        until(lambda: out.exists() and out.read_bytes().count(b"\n") == 1)
        assert "already running" in command(tmp_path, "dispatcher", *arguments, **told).stderr
    finally:
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 15
    while "nothing is pending" not in (tmp_path / "d.log").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_start_that_fails_in_the_background_is_said(tmp_path: Path, empty: RedisServer) -> None:
    """Exit 1, naming the log."""
    arguments = ["--detach", "--log-file", "d.log", "--health-addr", empty.addr]
    found = command(tmp_path, "dispatcher", *arguments, **on_streams(empty))
    assert (found.returncode, "d.log" in found.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--service", "loki"], "expected one of"),
        (["--service", "helicone"], "requires an API key"),
        (["--batch-size", "0"], "--batch-size 0: expected"),
        (["--backend", "file"], "No such option"),
        (["--api-key", "a", "--api-key-file", "b"], "only one of"),
    ],
)
def test_wrong_flags_end_with_1(tmp_path: Path, empty: RedisServer, arguments: list[str], word: str) -> None:
    """Naming what is wrong."""
    found = command(tmp_path, "dispatcher", *arguments, **on_streams(empty))
    assert found.returncode == 1
    assert word in found.stderr


def test_dead_letters_need_redis(tmp_path: Path) -> None:
    """Exit 2 when it is not there, 1 for an unknown id."""
    away = {"LLM_PROXY_EVENT_BUS": "redis-streams", "REDIS_ADDR": "127.0.0.1:9"}
    assert command(tmp_path, "dispatcher", "dead-letters", "list", **away).returncode == 2


def test_dead_letters_are_chosen_by_reason_time_and_number(tmp_path: Path, empty: RedisServer) -> None:
    """list, drop and replay take the same filters; an unknown id is an error."""
    client, told = empty.client(), on_streams(empty)
    for n, reason in enumerate(["rejected", "rejected", "exhausted"]):
        client.xadd(f"{STREAM}:dead", {"data": make_event(n).to_wire(), "reason": reason, "attempts": n, "at": "x"})

    def run(*arguments: str) -> Any:
        found = command(tmp_path, "dispatcher", "dead-letters", *arguments, "--json", **told)
        assert found.returncode == 0, found.stderr
        return json.loads(found.stdout)

    assert [letter["reason"] for letter in run("list")] == ["rejected", "rejected", "exhausted"]
    assert len(run("list", "--limit", "2")) == 2
    assert len(run("list", "--since", "1h")) == 3
    assert run("list", "--since", "2999-01-01") == []
    assert run("drop", "--reason", "exhausted") == {"dropped": 1}
    (first, second) = run("list")
    assert run("replay", first["id"]) == {"replayed": 1}
    assert client.xlen(STREAM) == 1
    assert run("drop", second["id"]) == {"dropped": 1}
    assert command(tmp_path, "dispatcher", "dead-letters", "show", "1-1", **told).returncode == 1
