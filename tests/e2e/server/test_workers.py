"""Workers that die, freeze or wear out, and the master's signals."""

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.gunicorn_server import WHOLE, Server, assert_whole, begin_streams, finish
from support.raw import request, wait_for


def test_a_killed_worker_is_replaced(start: Callable[..., Server]) -> None:
    """Its streams end without their last chunk, the other's are whole."""
    server = start(WEB_CONCURRENCY="2")
    victim, other = wait_for(lambda: len(pids := server.pids()) == 2 and pids)
    streams = begin_streams(server, 12)
    os.kill(victim, signal.SIGKILL)
    responses = finish(streams)
    assert {response.end for response in responses} <= {"whole", "eof", "reset"}
    assert all(response.body == WHOLE for response in responses if response.end == "whole")
    wait_for(lambda: len(server.pids()) == 2 and victim not in server.pids())
    assert other in server.pids()


def test_a_worker_told_to_leave_is_replaced_while_it_finishes(start: Callable[..., Server]) -> None:
    """SIGTERM to a single worker."""
    server = start()
    [pid] = server.pids()
    streams = begin_streams(server, 3)
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: server.pids() != {pid}, 2)
    assert_whole(finish(streams))
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), 3)


def test_who_has_just_connected_is_served_by_a_worker_that_leaves(start: Callable[..., Server]) -> None:
    """Its request is under way when the worker begins to retire; it is answered, and the connection ends."""
    server = start()
    (pid,) = server.pids()
    with server.client() as client:
        server.get("/ready")  # a later client is served: the worker has this connection
        os.kill(pid, signal.SIGUSR2)
        time.sleep(0.3)  # idle connections are looked for each 0.1 s
        response = client.send(request("/ready")).response()
    assert (response.status, response.value("Connection"), response.body.split()[0]) == (200, "close", b"%d" % pid)


def test_workers_that_die_at_once_are_forked_ever_more_slowly(start: Callable[..., Server]) -> None:
    """Each lives 0.1 s: within 3 s there are not 30 of them, and the master lives."""
    server = start(ready=False, APP_DIES="1")
    wait_for(lambda: server.hook_calls.count("started") >= 1)
    time.sleep(3)
    assert 2 <= server.hook_calls.count("started") <= 6
    assert server.process.poll() is None


def test_a_first_start_that_fails_ends_the_server(start: Callable[..., Server], tmp_path: Path) -> None:
    """Nothing has been served, so there is nothing to save: exit code 3."""
    (tmp_path / "fault").touch()
    server = start(ready=False, APP_FAULT_FILE=str(tmp_path / "fault"))
    assert server.ended(10) == 3
    assert "told not to start" in server.log


def test_a_frozen_worker_is_ended_and_replaced(start: Callable[..., Server]) -> None:
    """It shows on standard error where it hangs."""
    server = start("-t", "2")
    [pid] = server.pids()
    with server.client() as client:
        client.send(b"GET /freeze HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_for(lambda: not os.path.exists(f"/proc/{pid}"), 8)
    wait_for(lambda: server.pids() != {pid})
    assert "on_freeze" in server.log


def test_sigusr1_reaches_the_hooks_of_every_worker(start: Callable[..., Server]) -> None:
    """For files that were rotated."""
    server = start(WEB_CONCURRENCY="2")
    wait_for(lambda: server.hook_calls.count("started") == 2)
    server.signal(signal.SIGUSR1)
    wait_for(lambda: server.hook_calls.count("reopen") == 2)


def test_a_worker_ignores_sighup(start: Callable[..., Server]) -> None:
    """Terminals and service managers send it to whole groups."""
    server = start()
    [pid] = server.pids()
    os.kill(pid, signal.SIGHUP)
    time.sleep(0.3)
    assert server.pids() == {pid}


def test_a_worker_retires_after_max_requests(start: Callable[..., Server]) -> None:
    """And is replaced without a connection being lost."""
    server = start("--max-requests", "20")
    for _ in range(100):
        assert server.get("/").status == 200


def test_an_upgrade_in_place_loses_nothing(start: Callable[..., Server]) -> None:
    """SIGUSR2 starts a second master on the same socket; the first drains."""
    with socket.create_server(("127.0.0.1", 0)) as probe:  # a descriptor can't be handed on twice
        address = probe.getsockname()
    server = start(ready=False, WEB_CONCURRENCY="2", LISTEN_ADDR=f"127.0.0.1:{address[1]}")
    server.address = address
    server.wait_ready()
    old = server.pids()
    streams = begin_streams(server, 4)
    server.signal(signal.SIGUSR2)
    wait_for(lambda: server.pids() - old, 15)
    found = lambda: [int(line) for line in reversed(_masters(server)) if int(line) != server.process.pid]  # noqa: E731
    master = wait_for(found, 15)[0]
    server.signal(signal.SIGTERM)
    assert_whole(finish(streams))
    assert server.ended(6) == 0
    assert server.get("/").status == 200
    os.kill(master, signal.SIGTERM)
    wait_for(lambda: not os.path.exists(f"/proc/{master}"), 6)


def _masters(server: Server) -> Any:
    """Processes of the server's session that have children of its session: the masters."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as stat:
                    fields = stat.read().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == server.process.pid and fields[0] != "Z":  # the session
                found.append((int(entry), int(fields[1])))
    parents = {parent for _, parent in found}
    return [str(pid) for pid, _ in found if pid in parents]
