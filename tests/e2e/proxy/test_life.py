"""Drain, many workers, many streams, large bodies: the server as a whole."""

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from e2e.proxy.conftest import CHAT, STREAM
from support.gateway import Gateway, Token, eventually, running_gateway
from support.provider import Provider
from support.raw import Client, request

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory, provider: Provider) -> Iterator[Gateway]:
    """The proxy with four workers."""
    with running_gateway(tmp_path_factory.mktemp("four"), provider.url, WEB_CONCURRENCY="4") as running:
        yield running


def post(body: bytes, token: Token, *fields: str, target: str = "/v1/chat/completions") -> bytes:
    """A POST as raw bytes."""
    auth = f"Authorization: Bearer {token.bearer}"
    return request(target, "Content-Type: application/json", auth, *fields, method="POST", body=body)


def simulate(**plan: object) -> str:
    """The field that steers the provider."""
    return f"X-Simulate: {json.dumps(plan)}"


def resident_bytes(pid: int) -> int:
    """Resident set of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_exactly_the_quota_is_admitted(four: Gateway, provider: Provider) -> None:
    """Of 400 calls, 50 at a time over 4 workers, a token of 100 gets 100; the provider saw 100."""
    token, before = four.token(max_requests=100), provider.state()["requests"]

    def call(_: int) -> int:
        with Client(four.address) as client:
            return client.send(post(CHAT, token)).response("POST").status

    with ThreadPoolExecutor(50) as pool:
        statuses = list(pool.map(call, range(400)))
    assert (statuses.count(200), statuses.count(429)) == (100, 300)
    assert provider.state()["requests"] - before == 100
    assert four.request_count(token) == 100
    lines = four.wait_for_access(number=400, token_id=token.id)
    assert len({line["worker"] for line in lines}) > 1


def test_counters_agree_over_all_workers(four: Gateway) -> None:
    """Check (c): R is what went upstream, what was refused and what left before dispatch; E what is 400 and above."""
    token = four.token()
    for path, expected in (("/v1/models", 200), ("/v1/nothing", 404)):
        for _ in range(10):
            assert four.ask("GET", path, token=token)[0] == expected
    totals = json.loads(four.get("/metrics")[2])
    up = sum(four.metrics("llm_proxy_upstream_requests_total").values())
    refused = sum(four.metrics("llm_proxy_rejected_total").values())
    gone = four.metric('llm_proxy_client_disconnects_total{phase="before_dispatch"}')
    assert totals["request_count"] == up + refused + gone
    assert totals["request_count"] == four.metric("llm_proxy_requests_total")
    assert totals["error_count"] == refused
    assert four.metric("llm_proxy_workers") == 4
    assert totals["uptime_seconds"] > 0


def test_the_counts_of_a_killed_worker_stay(four: Gateway) -> None:
    """kill -9 of a worker: the totals do not fall, and the next one serves."""
    before = json.loads(four.get("/metrics")[2])["request_count"]
    victim = four.workers()[0]
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: victim not in four.workers() and len(four.workers()) == 4)
    eventually(lambda: four.metric("llm_proxy_workers") == 4)
    assert json.loads(four.get("/metrics")[2])["request_count"] == before


def test_fifty_streams_survive_sigterm_whole(tmp_path: Path, provider: Provider) -> None:
    """SIGTERM with 50 streams running: each ends whole, new requests are not taken, the server ends with 0."""
    with running_gateway(tmp_path, provider.url, WEB_CONCURRENCY="4") as gateway:
        token = gateway.token()
        clients = [Client(gateway.address) for _ in range(50)]
        for client in clients:
            client.send(post(STREAM, token, simulate(events=30, interval=0.1)))
        for client in clients:
            client.until(b"data: ")
        gateway.process.send_signal(signal.SIGTERM)
        for client in clients:
            data, how = client.rest()
            assert (data.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"), how) == (True, "eof")
            client.sock.close()
        assert gateway.stop() == 0
    assert len(gateway.access_lines(token_id=token.id, row=1)) == 50
    assert gateway.request_count(token) == 50


def test_what_outlives_the_drain_is_cut_and_accounted(tmp_path: Path, provider: Provider) -> None:
    """A stream beyond DRAIN_TIMEOUT ends visibly incomplete, its unit stays spent, the exit code is 0."""
    with running_gateway(tmp_path, provider.url, DRAIN_TIMEOUT="1s") as gateway:
        token = gateway.token(max_requests=5)
        address = gateway.address
        with Client(address) as client, Client(address) as waiting, Client(address, receive_buffer=4096) as full:
            auth = f"Authorization: Bearer {gateway.token(token.project_id).bearer}"
            full.send(request("/v1/files/file-1/content", auth, simulate(size=64 * MIB)))  # and takes no byte of it
            eventually(lambda: provider.state()["running"] == 1)
            client.send(post(STREAM, token, simulate(silence="body", after=600)))
            client.until(b"data: ")
            waiting.send(post(CHAT, token, simulate(silence="head")))
            eventually(lambda: gateway.request_count(token) == 2)
            gateway.process.send_signal(signal.SIGTERM)
            data, _ = client.rest()
            assert not data.endswith(b"0\r\n\r\n")
            assert waiting.rest()[0] == b""
        assert gateway.stop() == 0
    assert len(gateway.access_lines(token_id=token.id, row=22)) == 2
    assert len(gateway.access_lines(project_id=token.project_id, row=22)) == 3
    assert gateway.request_count(token) == 2


def test_draining_refuses_what_still_comes(tmp_path: Path, provider: Provider) -> None:
    """A request on a kept connection, behind a running stream's drain: 503 draining, and close."""
    with running_gateway(tmp_path, provider.url) as gateway:
        token = gateway.token()
        with Client(gateway.address) as client, Client(gateway.address) as stream:
            stream.send(post(STREAM, token, simulate(events=30, interval=0.1)))
            stream.until(b"data: ")
            models = request("/v1/models", f"Authorization: Bearer {token.bearer}")
            client.send(post(STREAM, token, simulate(events=5, interval=0.1)) + models)  # one behind the other
            client.until(b"data: ")
            gateway.process.send_signal(signal.SIGTERM)
            client.until(b"\r\n0\r\n\r\n")
            response = client.response()
            assert (response.status, json.loads(response.body)["code"]) == (503, "draining")
            assert (response.value("Retry-After"), response.value("Connection")) == ("1", "close")
            assert stream.rest()[1] == "eof"
        assert gateway.stop() == 0


@pytest.mark.times
def test_a_thousand_streams_on_one_worker(tmp_path: Path, provider: Provider) -> None:
    """1,000 event streams at once: none loses a byte, and /live answers in under 100 ms meanwhile."""
    with running_gateway(tmp_path, provider.url) as gateway:
        token = gateway.token()
        clients = [Client(gateway.address) for _ in range(1000)]
        try:
            ask = post(STREAM, token, simulate(events=12, interval=0.5))
            for client in clients:
                client.send(ask)
            for client in clients:
                client.until(b"\r\n\r\n")
            slowest_s = 0.0
            for _ in range(20):
                begin = time.monotonic()
                assert gateway.get("/live")[0] == 200
                slowest_s = max(slowest_s, time.monotonic() - begin)
                time.sleep(0.05)
            ends = [client.until(b"\r\n0\r\n\r\n").count(b"data: ") for client in clients]
        finally:
            for client in clients:
                client.sock.close()
        assert set(ends) == {ends[0]}
        assert ends[0] >= 12
        assert slowest_s < 0.1
        assert gateway.metric('llm_proxy_upstream_requests_total{outcome="2xx"}') == 1000


@pytest.mark.parametrize("direction", ["up", "down"])
def test_two_hundred_megabytes_take_no_memory(four: Gateway, provider: Provider, direction: str) -> None:
    """A 200 MB upload or download passes whole and moves no worker's resident set by 20 MB."""
    token, size = four.token(), 200 * 1000 * 1000
    four.ask("GET", "/v1/models", token=token)
    before = {pid: resident_bytes(pid) for pid in four.workers()}
    with Client(four.address) as client:
        auth = f"Authorization: Bearer {token.bearer}"
        if direction == "down":
            client.send(request("/v1/files/file-1/content", auth, simulate(size=size)))
            assert swallow(client) == size
        else:
            head = request("/v1/files", auth, f"Content-Length: {size}", method="POST")
            client.send(head)
            piece = b"x" * (4 * MIB)
            for start in range(0, size, len(piece)):
                client.send(piece[: size - start])
            client.response("POST")
            assert provider.seen()[-1].body_bytes == size
    grown = max(resident_bytes(pid) - before.get(pid, 0) for pid in four.workers())
    assert grown < 20 * MIB


def swallow(client: Client) -> int:
    """Read a response of known length and throw it away; how many bytes it had."""
    client.until(b"\r\n\r\n")
    received = len(client.held)
    client.held = b""
    client.sock.settimeout(2)
    try:
        while piece := client.sock.recv(1 << 20):
            received += len(piece)
            if received >= 200 * 1000 * 1000:
                break
    except TimeoutError:
        pass
    return received


@pytest.mark.times
def test_every_slot_taken_leaves_the_probes_alone(tmp_path: Path, provider: Provider) -> None:
    """The next call gets 503 overloaded, /live and /ready answer at once, a freed slot serves."""
    with running_gateway(tmp_path, provider.url, MAX_CONCURRENT_REQUESTS="3") as gateway:
        token = gateway.token()
        clients = [Client(gateway.address) for _ in range(3)]
        for client in clients:
            client.send(post(STREAM, token, simulate(silence="body", after=600)))
            client.until(b"data: ")
        status, fields, body = gateway.ask("POST", "/v1/chat/completions", CHAT, token=token)
        assert (status, json.loads(body)["code"], fields["Retry-After"]) == (503, "overloaded", "1")
        for probe in ("/live", "/ready"):
            begin = time.monotonic()
            assert gateway.get(probe)[0] == 200
            assert time.monotonic() - begin < 0.1
        for client in clients:
            client.sock.close()
        eventually(lambda: gateway.ask("POST", "/v1/chat/completions", CHAT, token=token)[0] == 200)


def test_an_idle_connection_is_served_after_a_while(four: Gateway) -> None:
    """A connection that was quiet for longer than gunicorn's own 2 s serves the next request."""
    token = four.token()
    models = request("/v1/models", f"Authorization: Bearer {token.bearer}")
    with Client(four.address) as client:
        assert client.send(models).response().status == 200
        time.sleep(4)
        assert client.send(models).response().status == 200


def test_a_client_that_resets_frees_everything(four: Gateway, provider: Provider) -> None:
    """A hundred clients that reset at different moments leave no connection open towards the provider."""
    token = four.token()
    for number in range(100):
        client = Client(four.address)
        client.send(post(STREAM, token, simulate(events=50, interval=0.05)))
        if number % 2:
            client.until(b"data: ")
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        client.sock.close()
    provider.wait_for_state(within_s=5, running=0)
    eventually(lambda: four.metric("llm_proxy_inflight_requests") == 0)
