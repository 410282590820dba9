"""SIGTERM and its haste: what runs finishes whole, or is visibly cut."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from support.gunicorn_server import Server, assert_whole, begin_streams, finish, in_parallel, refuses
from support.raw import request, wait_for


@pytest.mark.parametrize("whom", ["master", "group"])
def test_streams_finish_whole_on_four_workers(start: Callable[..., Server], whom: Any) -> None:
    """50 of them; the port closes meanwhile; exit code 0. Service managers signal the whole group."""
    server = start(WEB_CONCURRENCY="4")
    clients = begin_streams(server, 50)
    server.signal(signal.SIGTERM) if whom == "master" else os.killpg(server.process.pid, signal.SIGTERM)
    wait_for(lambda: refuses(server), 1.5)
    assert_whole(finish(clients))
    assert server.ended(5) == 0
    assert server.hook_calls.count("stopped False") == 4
    assert server.hook_calls.count("cut") == 0


@pytest.mark.times
def test_exchanges_are_cut_at_the_deadline(start: Callable[..., Server]) -> None:
    """DRAIN_TIMEOUT: no last chunk, the body is closed, the hooks are called, exit code 0."""
    server = start(DRAIN_TIMEOUT="1s")
    clients = begin_streams(server, 3, "/stream/200/0.1")
    begin = time.monotonic()
    server.signal(signal.SIGTERM)
    assert [response.end for response in finish(clients)] == ["eof"] * 3
    assert 0.8 < time.monotonic() - begin < 3
    assert server.ended(3) == 0
    assert [line for line in server.hook_calls if line != "started"] == [
        "draining",
        "cut",
        *["stream cut"] * 3,
        "stopped True",
    ]


def test_a_second_sigterm_cuts(start: Callable[..., Server]) -> None:
    """Within 3 s, with exit code 0, in the drain, in the grace, and right after the first."""
    in_parallel(lambda when: second_sigterm(start, when), ["drain", "grace", "at once"])


def second_sigterm(start: Callable[..., Server], when: Any) -> None:
    """One case."""
    server = start(DRAIN_TIMEOUT="60s", SHUTDOWN_GRACE="30s" if when == "grace" else "0s")
    clients = begin_streams(server, 2, "/stream/500/0.1")
    begin = time.monotonic()
    server.signal(signal.SIGTERM)
    if when == "at once":
        time.sleep(0.02)  # or the kernel makes one signal of the two
    else:
        wait_for(lambda: "draining" in server.hook_calls)
        time.sleep(0.3)
    server.signal(signal.SIGTERM)
    assert [response.end for response in finish(clients)] == ["eof"] * 2
    assert server.ended(5) == 0
    assert time.monotonic() - begin < 5
    assert server.hook_calls[-1] == "stopped True"


@pytest.mark.times
def test_ctrl_c_cuts(start: Callable[..., Server]) -> None:
    """SIGINT to the whole group, as a terminal sends it."""
    server = start(WEB_CONCURRENCY="2")
    clients = begin_streams(server, 4, "/stream/500/0.1")
    begin = time.monotonic()
    os.killpg(server.process.pid, signal.SIGINT)
    assert [response.end for response in finish(clients)] == ["eof"] * 4
    assert server.ended(5) == 0
    assert time.monotonic() - begin < 3


@pytest.mark.times
def test_idle_connections_do_not_delay(start: Callable[..., Server]) -> None:
    """300 kept connections and 100 that never spoke: gone at once, without an error."""
    server = start()
    clients = [server.client() for _ in range(400)]
    for client in clients[:300]:
        assert client.get("/").status == 200
    begin = time.monotonic()
    server.signal(signal.SIGTERM)
    assert server.ended(5) == 0
    assert time.monotonic() - begin < 2.5
    assert {client.rest() for client in clients} == {(b"", "eof")}
    for client in clients:
        client.sock.close()


def test_the_grace_serves_on_and_tells_probes(start: Callable[..., Server]) -> None:
    """SHUTDOWN_GRACE: /ready is 503 at once, responses carry Connection: close; then the port closes."""
    server = start(SHUTDOWN_GRACE="2s", WEB_CONCURRENCY="2")
    with server.client() as kept:
        assert kept.get("/").value("Connection") == "keep-alive"
        server.signal(signal.SIGTERM)
        begin = time.monotonic()
        wait_for(lambda: server.get("/ready").status == 503, 1)
        for _ in range(10):
            assert server.get("/ready").body.endswith(b" grace")
        response = kept.get("/")
        assert (response.status, response.value("Connection")) == (200, "close")
    wait_for(lambda: refuses(server), 4)
    assert time.monotonic() - begin > 1.5
    assert server.ended(5) == 0


def test_a_request_behind_a_stream_is_answered_as_draining(start: Callable[..., Server]) -> None:
    """It had arrived when the drain began; the application sees the phase and refuses."""
    server = start()
    [client] = begin_streams(server, 1)
    server.signal(signal.SIGTERM)
    wait_for(lambda: "draining" in server.hook_calls)
    client.send(request("/ready"))
    assert client.response().end == "whole"
    with contextlib.closing(client.sock):
        response = client.response()
        assert (response.status, response.value("Connection")) == (503, "close")
        assert response.body.endswith(b" draining")
    assert server.ended(5) == 0


def test_connections_that_wait_in_the_queue_are_answered(start: Callable[..., Server]) -> None:
    """What the kernel had accepted when the listener closed."""
    server = start()
    pid = server.pids().pop()
    os.kill(pid, signal.SIGSTOP)
    clients = [server.client().send(request("/ready")) for _ in range(20)]
    server.signal(signal.SIGTERM)
    time.sleep(0.3)
    os.kill(pid, signal.SIGCONT)
    for client in clients:
        assert client.response().status == 503
        client.sock.close()
    assert server.ended(5) == 0


def test_a_drain_without_time_cuts_at_once(start: Callable[..., Server]) -> None:
    """DRAIN_TIMEOUT=0."""
    server = start(DRAIN_TIMEOUT="0")
    clients = begin_streams(server, 1, "/stream/200/0.1")
    server.signal(signal.SIGTERM)
    assert finish(clients)[0].end == "eof"
    assert server.ended(3) == 0


def test_workers_outlive_a_killed_master_until_their_streams_end(start: Callable[..., Server]) -> None:
    """kill -9 of the master is SIGTERM to the workers."""
    server = start(WEB_CONCURRENCY="2")
    pids = server.pids()
    clients = begin_streams(server, 6)
    server.signal(signal.SIGKILL)
    assert_whole(finish(clients))
    assert server.ended(3) == -signal.SIGKILL

    def are_gone() -> Any:
        return not any(os.path.exists(f"/proc/{pid}") for pid in pids)

    wait_for(are_gone, 5)
    assert server.hook_calls.count("stopped False") == 2
