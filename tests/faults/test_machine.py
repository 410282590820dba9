"""The proxy's own processes, its clock, its limits and its clients fail under load."""

import json
import os
import resource
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from faults.conftest import CHAT, STREAM, post
from support.gateway import Gateway, Token, eventually, running_gateway
from support.provider import Provider
from support.raw import Client, Closed

_FAKETIME = "/usr/lib/*/faketime/libfaketime.so.1"
_MIB = 1024 * 1024


@contextmanager
def load(gateway: Gateway, token: Token) -> Iterator[Counter[int]]:
    """Two callers that ask on and on; yields how their requests ended (0: no response)."""
    ended: Counter[int] = Counter()
    is_over = threading.Event()

    def run() -> None:
        while not is_over.is_set():
            ended[status_of(gateway, token)] += 1
            time.sleep(0.02)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: ended[200] > 5)
        yield ended
    finally:
        is_over.set()
        for thread in threads:
            thread.join(20)


def status_of(gateway: Gateway, token: Token) -> int:
    """The status of one request; 0 without a response."""
    with suppress(OSError, Closed), Client(gateway.address) as client:
        return client.send(post(token.bearer)).answer("POST").status
    return 0


@contextmanager
def streaming(gateway: Gateway, token: Token, events: int) -> Iterator[Client]:
    """A stream that has begun."""
    with Client(gateway.address) as client:
        client.send(post(token.bearer, STREAM, events=events, interval=0.1))
        client.until(b"data: ")
        yield client


def test_a_worker_that_is_killed(tmp_path: Path, provider: Provider) -> None:
    """Another takes its place within 5 s; each request that reached the provider is charged, and none twice."""
    with running_gateway(tmp_path, provider.url, WEB_CONCURRENCY="2") as gateway:
        token = gateway.token(max_requests=100_000)
        with load(gateway, token) as ended:
            killed = gateway.workers()[0]
            os.kill(killed, signal.SIGKILL)
            eventually(lambda: killed not in gateway.workers() and len(gateway.workers()) == 2, 5)
            before = ended[200]
            eventually(lambda: ended[200] > before + 10)
        assert set(ended) <= {0, 200, 503}
        eventually(lambda: ended[200] <= gateway.request_count(token) <= ended[200] + ended[0])


@pytest.mark.stamina
def test_a_master_that_is_killed(tmp_path: Path, provider: Provider) -> None:
    """The workers leave; a new start on the same folder has every count."""
    with running_gateway(tmp_path, provider.url, WEB_CONCURRENCY="2") as gateway:
        token = gateway.token(max_requests=100_000)
        with load(gateway, token) as ended:
            workers = gateway.workers()
            gateway.process.kill()
            gateway.process.wait()
            gateway.exit_code = 0  # there is nothing left to stop
            eventually(lambda: not any(Path(f"/proc/{pid}/stat").exists() for pid in workers), 40)
    served = ended[200]
    with running_gateway(tmp_path, provider.url, ENCRYPTION_KEY=gateway.env["ENCRYPTION_KEY"]) as again:
        assert status_of(again, token) == 200
        eventually(lambda: served + 1 <= again.request_count(token) <= served + 1 + ended[0])


@pytest.mark.stamina
def test_a_reload_under_load(tmp_path: Path, provider: Provider) -> None:
    """SIGHUP replaces the workers; no request and no stream breaks."""
    with running_gateway(tmp_path, provider.url, WEB_CONCURRENCY="2") as gateway:
        token = gateway.token()
        with load(gateway, token) as ended, streaming(gateway, token, 50) as stream:
            before = set(gateway.workers())
            gateway.process.send_signal(signal.SIGHUP)
            stream.until(b"[DONE]")
            eventually(lambda: len(gateway.workers()) == 2 and not before & set(gateway.workers()), 30)
        assert set(ended) == {200}


@pytest.mark.stamina
@pytest.mark.parametrize("jump", [timedelta(hours=1), timedelta(hours=-1)], ids=["forward", "backward"])
def test_the_clock_jumps(tmp_path: Path, provider: Provider, jump: timedelta) -> None:
    """An hour either way breaks no request and no stream, and a token ends by the new time."""
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    clock = tmp_path / "clock"
    clock.write_text("+0\n")
    fake = {"LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1"}
    fake |= {"FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    with running_gateway(tmp_path, provider.url, **fake) as gateway:
        token = gateway.token(max_requests=100_000)
        ending = gateway.token(expires_at=datetime.now(UTC) + timedelta(minutes=30))
        assert status_of(gateway, ending) == 200
        with load(gateway, token) as ended, streaming(gateway, token, 30) as stream:
            clock.write_text(f"{int(jump.total_seconds()):+d}\n")
            stream.until(b"[DONE]")
            expected = 401 if jump > timedelta() else 200
            eventually(lambda: status_of(gateway, ending) == expected, 5)
        assert set(ended) == {200}
        eventually(lambda: gateway.request_count(token) == ended[200] + 1)


@pytest.mark.stamina
def test_few_open_files(tmp_path: Path, provider: Provider) -> None:
    """400 clients at 256 files: the server lives, and serves when they have left."""
    with running_gateway(tmp_path, provider.url) as gateway, ExitStack() as stack:
        token = gateway.token()
        for pid in (gateway.process.pid, *gateway.workers()):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (256, 256))
        workers = gateway.workers()
        for _ in range(400):
            client = stack.enter_context(Client(gateway.address))
            client.send(b"GET /live HTTP/1.1\r\n")  # the rest never comes
        time.sleep(1.0)
        stack.close()
        eventually(lambda: status_of(gateway, token) == 200, 15)
        assert gateway.workers() == workers


def test_a_client_that_reads_slowly(tmp_path: Path, provider: Provider) -> None:
    """It holds back its own stream alone, and the worker's memory stays."""
    with running_gateway(tmp_path, provider.url, CLIENT_WRITE_TIMEOUT="3s") as gateway:
        token = gateway.token()
        (worker,) = gateway.workers()
        with Client(gateway.address, receive_buffer=4096) as slow, load(gateway, token) as ended:
            before = resident_bytes(worker)
            slow.send(post(token.bearer, STREAM, events=300_000, interval=0))
            gateway.wait_for_access(1, 15, token_id=token.id, error="client_gone:write")
            assert resident_bytes(worker) - before < 32 * _MIB
        assert set(ended) == {200}


def resident_bytes(pid: int) -> int:
    """What a process has in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_client_that_stops_to_write(tmp_path: Path, provider: Provider) -> None:
    """408 after REQUEST_BODY_TIMEOUT; others are not delayed."""
    with running_gateway(tmp_path, provider.url, REQUEST_BODY_TIMEOUT="1s") as gateway:
        token = gateway.token()
        with load(gateway, token) as ended, Client(gateway.address) as slow:
            slow.send(post(token.bearer, CHAT)[:-10])
            began = time.monotonic()
            assert slow.answer("POST").status == 408
            assert 0.9 < time.monotonic() - began < 3
        assert set(ended) == {200}
        assert json.loads(gateway.get("/health")[2])
