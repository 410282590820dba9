"""SIGHUP: new workers beside the old ones, and never a server that stops because of it."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.gunicorn_server import Server, assert_whole, begin_streams, finish, in_parallel
from support.raw import request, wait_for

import llm_proxy


def values(server: Server) -> Any:
    """What the workers that response now have for API_ENV."""
    return {server.get("/value").body.split()[1].decode() for _ in range(12)}


def settled(server: Server, value: Any) -> None:
    """Wait until every worker has it, and no other worker responds."""
    wait_for(lambda: values(server) == {value}, 10)


@pytest.fixture
def set_env() -> Any:
    """Writes a server's `.env`."""

    def write(server: Server, **variables: Any) -> None:
        server.env_path.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))

    return write


def test_a_good_change_is_served_by_new_workers(start: Callable[..., Server], set_env: Any) -> None:
    """Streams of both old generations end whole; a retired worker is still ready; exit code 0."""
    server = start(WEB_CONCURRENCY="2")
    first_pids, streams = server.pids(), begin_streams(server, 4)
    kept = server.client()
    kept.send(request("/stream/50/0.1"))
    kept.until(b"data: 0\n\n\r\n")
    set_env(server, API_ENV="second")
    server.signal(signal.SIGHUP)
    settled(server, "second")
    kept.send(request("/ready"))  # behind the stream, to a worker that has retired
    streams += begin_streams(server, 4)
    set_env(server, API_ENV="third")
    server.signal(signal.SIGHUP)
    settled(server, "third")
    assert not server.pids() & first_pids
    kept.until(b"0\r\n\r\n")
    ready = kept.response()
    assert (ready.status, ready.value("Connection")) == (200, "close")
    assert ready.body.endswith(b" retired")
    kept.sock.close()
    assert_whole(finish(streams))
    wait_for(lambda: server.hook_calls.count("stopped False") == 4, 10)
    assert "cut" not in server.hook_calls
    server.signal(signal.SIGTERM)
    assert server.ended(5) == 0


def test_a_bad_variable_leaves_the_old_workers(start: Callable[..., Server], set_env: Any) -> None:
    """Every fault is logged; nothing is forked; a later good reload works."""
    server = start()
    pids = server.pids()
    set_env(server, API_ENV="bad", DRAIN_TIMEOUT="soon", KEEPALIVE_TIMEOUT="never")
    server.signal(signal.SIGHUP)
    wait_for(lambda: "KEEPALIVE_TIMEOUT=never" in server.log and "DRAIN_TIMEOUT=soon" in server.log)
    assert server.pids() == pids
    assert values(server) == {"development"}
    set_env(server, API_ENV="good")
    server.signal(signal.SIGHUP)
    settled(server, "good")


def test_a_bad_provider_file_leaves_the_old_workers(start: Callable[..., Server], set_env: Any) -> None:
    """It is read and checked in the master."""
    server = start(is_whole=True)
    pids = server.pids()
    provider = server.folder / "providers.yaml"
    provider.write_text("apis: {}\n")
    set_env(server, API_CONFIG_PATH=provider)
    server.signal(signal.SIGHUP)
    wait_for(lambda: "Reload refused" in server.log)
    assert server.pids() == pids


def test_an_application_that_does_not_start_undoes_the_reload(
    start: Callable[..., Server], set_env: Any, tmp_path: Path
) -> None:
    """The old workers go on with the old settings, and so do those that replace them."""
    fault = tmp_path / "fault"
    server = start(APP_FAULT_FILE=str(fault))
    pids = server.pids()
    fault.touch()
    set_env(server, API_ENV="new")
    server.signal(signal.SIGHUP)
    wait_for(lambda: "Reload undone" in server.log)
    assert server.pids() == pids
    fault.unlink()
    os.kill(pids.pop(), signal.SIGKILL)
    wait_for(lambda: values(server) == {"development"})
    server.signal(signal.SIGHUP)
    settled(server, "new")


def test_the_last_of_many_reloads_wins(start: Callable[..., Server], set_env: Any) -> None:
    """Three within a moment."""
    server = start()
    for value in ("one", "two", "three"):
        set_env(server, API_ENV=value)
        server.signal(signal.SIGHUP)
        time.sleep(0.04)
    settled(server, "three")
    wait_for(lambda: len(server.pids()) == 1)


def test_sigterm_in_a_reload_drains_old_and_new_at_once(start: Callable[..., Server], set_env: Any) -> None:
    """Whatever the new workers are doing; streams whole, exit code 0."""
    in_parallel(lambda offset_s: sigterm_after(start, set_env, offset_s), [0, 0.02, 0.15, 0.5, 1.0])


def sigterm_after(start: Callable[..., Server], set_env: Any, offset_s: Any) -> None:
    """One case."""
    server = start(WEB_CONCURRENCY="2")
    streams = begin_streams(server, 6)
    set_env(server, API_ENV="new")
    server.signal(signal.SIGHUP)
    time.sleep(offset_s)
    server.signal(signal.SIGTERM)
    assert_whole(finish(streams))
    assert server.ended(8) == 0


def test_sigterm_ends_workers_that_hang_in_their_start(start: Callable[..., Server], tmp_path: Path) -> None:
    """A new generation that never serves does not hold up the stop for long; the old one is not touched before."""
    hang = tmp_path / "hang"
    server = start(APP_HANG_FILE=str(hang))
    pids = server.pids()
    hang.touch()
    server.signal(signal.SIGHUP)
    wait_for(lambda: server.hook_calls.count("started") == 2)
    assert server.pids() == pids
    hang.unlink()
    server.signal(signal.SIGTERM)
    assert server.ended(8) == 0


def test_the_number_of_workers_follows_ttin_ttou_and_the_reload(start: Callable[..., Server], set_env: Any) -> None:
    """WEB_CONCURRENCY is read again, too."""
    server = start()
    server.signal(signal.SIGTTIN)
    wait_for(lambda: len(server.pids()) == 2)
    server.signal(signal.SIGTTOU)
    wait_for(lambda: len(server.pids()) == 1)
    set_env(server, WEB_CONCURRENCY="3")
    server.signal(signal.SIGHUP)
    wait_for(lambda: len(server.pids()) == 3)


@pytest.fixture
def package(tmp_path: Path) -> Any:
    """A copy of the package that may be changed; PYTHONPATH is its folder."""
    copy = tmp_path / "installed" / "llm_proxy"
    shutil.copytree(Path(llm_proxy.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def versions(server: Server) -> Any:
    """Which versions answer now."""
    return {server.get("/version").body for _ in range(8)}


def test_a_reload_after_an_upgrade_on_disk_runs_the_new_code(start: Callable[..., Server], package: Any) -> None:
    """So do later workers; streams of the old code end whole, and the server as ever."""
    server = start(WEB_CONCURRENCY="2", PYTHONPATH=str(package.parent))
    assert versions(server) == {llm_proxy.__version__.encode()}
    streams = begin_streams(server, 4)
    (package / "__init__.py").write_text('"""An upgrade."""\n\n__version__ = "99.0"\n')
    server.signal(signal.SIGHUP)
    wait_for(lambda: versions(server) == {b"99.0"}, 15)
    assert_whole(finish(streams))
    killed = server.pids().pop()
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: len(server.pids() - {killed}) == 2, 15)
    assert versions(server) == {b"99.0"}
    server.signal(signal.SIGTERM)
    assert server.ended(8) == 0


def test_an_upgrade_that_does_not_start_undoes_the_reload(start: Callable[..., Server], package: Any) -> None:
    """The old workers go on; once the code is good, a reload takes it."""
    server = start(PYTHONPATH=str(package.parent))
    pids, worker = server.pids(), package / "server" / "worker.py"
    good = worker.read_text()
    worker.write_text("raise RuntimeError('half an upgrade')\n")
    server.signal(signal.SIGHUP)
    wait_for(lambda: "Reload undone" in server.log, 15)
    assert server.pids() == pids
    worker.write_text(good)
    (package / "__init__.py").write_text('"""An upgrade."""\n\n__version__ = "99.0"\n')
    server.signal(signal.SIGHUP)
    wait_for(lambda: versions(server) == {b"99.0"}, 15)
