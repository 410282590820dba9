"""Many equal requests at once: one call to the provider, whatever becomes of it, and whichever client leaves."""

import os
import selectors
import signal
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from e2e.cache.conftest import Origin, state
from support.gateway import Gateway, Token, eventually, running_gateway
from support.raw import Client

pytestmark = pytest.mark.times

MANY = 2000


def ask(token: Token, path: str) -> bytes:
    """A request whose connection is closed behind its response; it varies by nothing from those of Gateway.ask."""
    fields = f"Host: x\r\nAuthorization: Bearer {token.bearer}\r\nAccept-Encoding: identity\r\nConnection: close\r\n"
    return f"GET {path} HTTP/1.1\r\n{fields}\r\n".encode()


def together(address: tuple[str, int], request: bytes, number: int, within_s: float) -> Counter[bytes]:
    """Send it on so many connections before any response is read; status lines with bodies, counted."""
    waiting = selectors.DefaultSelector()
    for _ in range(number):
        connection = socket.create_connection(address)
        connection.sendall(request)
        waiting.register(connection, selectors.EVENT_READ, bytearray())
    deadline, found = time.monotonic() + within_s, Counter[bytes]()
    while waiting.get_map():
        assert time.monotonic() < deadline, f"{len(waiting.get_map())} are still waiting; {found}"
        for key, _ in waiting.select(1.0):
            assert isinstance(key.fileobj, socket.socket)
            if data := key.fileobj.recv(65536):
                key.data.extend(data)
            else:
                waiting.unregister(key.fileobj)
                key.fileobj.close()
                head, _, body = bytes(key.data).partition(b"\r\n\r\n")
                found[head.partition(b"\r\n")[0] + b" " + body] += 1
    return found


def test_two_thousand_identical_misses_are_one_question(gateway: Gateway, origin: Origin, path: str) -> None:
    """Over two workers: the provider sees one, all get its response, one unit is charged."""
    origin.pause_s = 2.0
    token = gateway.token()
    found = together(gateway.address, ask(token, path), MANY, within_s=60)
    assert found == {b"HTTP/1.1 200 OK the response": MANY}
    assert origin.count(path) == 1
    eventually(lambda: gateway.request_count(token) == 1)


def test_the_provider_fails_and_each_goes_on_its_own(gateway: Gateway, origin: Origin, path: str) -> None:
    """An error is no other request's response."""
    origin.status, origin.fields, origin.pause_s = 400, (), 0.5
    found = together(gateway.address, ask(gateway.token(), path), 40, within_s=30)
    assert found == {b"HTTP/1.1 400 Bad Request the response": 40}
    assert origin.count(path) == 40


def test_who_leaves_while_waiting_costs_nothing(gateway: Gateway, origin: Origin, path: str) -> None:
    """No question, no unit; the others get the response."""
    origin.pause_s = 2.0
    token = gateway.token()
    request = ask(token, path)
    with ThreadPoolExecutor(4) as pool:
        leader = pool.submit(gateway.ask, "GET", path, token=token)
        eventually(lambda: origin.count(path) == 1)
        gone = gateway.metric('llm_proxy_client_disconnects_total{phase="before_dispatch"}')
        clients = [Client(gateway.address) for _ in range(10)]
        for client in clients:
            client.send(request)
        time.sleep(0.3)  # they have to wait; one that does not yet leaves before it has begun, which counts the same
        staying = pool.submit(gateway.ask, "GET", path, token=token)
        for client in clients:
            client.sock.close()
        assert (leader.result()[2], staying.result()[2]) == (b"the response", b"the response")
    assert origin.count(path) == 1
    eventually(lambda: gateway.metric('llm_proxy_client_disconnects_total{phase="before_dispatch"}') >= gone + 9)
    eventually(lambda: gateway.request_count(token) == 1)


def test_a_leader_that_leaves_lets_another_lead(gateway: Gateway, origin: Origin, path: str) -> None:
    """Its exchange is cut; a request that waited calls the provider, and gets its response."""
    origin.pause_s = 1.0
    token = gateway.token()
    leader = Client(gateway.address)
    leader.send(ask(token, path))
    eventually(lambda: origin.count(path) == 1)
    with ThreadPoolExecutor(8) as pool:
        others = [pool.submit(gateway.ask, "GET", path, token=token) for _ in range(8)]
        time.sleep(0.3)
        leader.sock.close()
        assert {other.result()[2] for other in others} == {b"the response"}


def test_a_dead_worker_holds_up_no_request(tmp_path: Path, origin: Origin, path: str) -> None:
    """The kernel releases its lock: the other worker's clients are answered as soon as it is gone."""
    origin.pause_s = 4.0
    with running_gateway(tmp_path, origin.url, WEB_CONCURRENCY="2") as gateway:
        token = gateway.token()
        leader = Client(gateway.address)
        leader.send(ask(token, path))
        eventually(lambda: origin.count(path) == 1)
        leading = _worker_of(gateway, leader)
        assert leading
        waiting = _waiting(gateway, token, path)
        spared = [client for client in waiting if _worker_of(gateway, client) != leading]
        origin.pause_s = 0.0
        killed_at = time.monotonic()
        os.kill(leading, signal.SIGKILL)
        assert {client.response().body for client in spared} == {b"the response"}
        assert time.monotonic() - killed_at < 3
        for client in (leader, *waiting):
            client.sock.close()


def _waiting(gateway: Gateway, token: Token, path: str) -> list[Client]:
    """Clients that wait for the same response, at each worker at least one."""
    clients: list[Client] = []
    while len({_worker_of(gateway, client) for client in clients} - {0}) < 2:
        assert len(clients) < 300
        clients.append(Client(gateway.address))
        clients[-1].send(ask(token, path))
        time.sleep(0.01)
    time.sleep(0.3)
    return clients


def _worker_of(gateway: Gateway, client: Client) -> int:
    """The worker that holds the other end of a connection; 0 while none does."""
    port = client.sock.getsockname()[1]
    table = Path("/proc/net/tcp").read_text().splitlines()[1:]
    ours = f"{gateway.port:04X}"
    rows = [line.split() for line in table]
    inode = next(row[9] for row in rows if row[1].endswith(f":{ours}") and row[2].endswith(f":{port:04X}"))
    for pid in gateway.workers():
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            if os.readlink(descriptor) == f"socket:[{inode}]":
                return pid
    return 0  # it is not accepted yet


@pytest.mark.parametrize("pause_s", [0.0, 0.05])
def test_the_next_question_always_finds_what_was_stored(
    gateway: Gateway, origin: Origin, path: str, pause_s: float
) -> None:
    """Whichever worker it comes to, right behind the response: GET and HEAD are hits."""
    origin.pause_s = pause_s
    token = gateway.token()
    for number in range(25):
        target = f"{path}-{number}"
        assert state(gateway.ask("GET", target, token=token)) == "stored"
        assert state(gateway.ask("HEAD", target, token=token)) == "hit"
        assert state(gateway.ask("GET", target, token=token)) == "hit"
        assert origin.count(target) == 1
