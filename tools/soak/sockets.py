"""Measures of WebSockets, by hand: `python tools/soak/sockets.py [--only memory|delay|revoke]`.

Idle sockets of one worker: memory of each, and how long /live takes beside them. The delay that a message gains through
the proxy, beside nginx in the same run. How long the sockets of many tokens take to close once these are revoked.
"""

import argparse
import base64
import json
import os
import selectors
import shutil
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[2] / "tests"), str(HERE.parents[1] / "bench")]

from contestants import start_nginx  # noqa: E402
from machine import free_port  # noqa: E402
from support.gateway import Gateway, running_gateway  # noqa: E402
from support.sockets import provider_file  # noqa: E402

SENT = json.dumps({"type": "input_audio_buffer.append", "audio": "A" * 160}).encode()
SAID = json.dumps({"type": "response.output_text.delta", "sequence_number": 7, "delta": "word" * 20}).encode()
_NGINX = """
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{upstream};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
            proxy_buffering off;
            proxy_read_timeout 600s;
        }}
    }}
"""


def frame(payload: bytes, *, is_masked: bool) -> bytes:
    """Return a text frame of at most 65,535 bytes; the mask is zero."""
    size = len(payload)
    head = bytes((0x81, size)) if size < 126 else b"\x81\x7e" + size.to_bytes(2, "big")
    return bytes((head[0], head[1] | 0x80)) + head[2:] + bytes(4) + payload if is_masked else head + payload


FROM_CLIENT, FROM_SERVER = frame(SENT, is_masked=True), frame(SAID, is_masked=False)


class Responder:
    """A provider that says one message for each one that it gets; a thread a socket."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        threading.stack_size(256 * 1024)
        while True:
            client, _ = self._listener.accept()
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(4096)
            fields = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x"
            client.sendall(f"HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n\r\n".encode())
            waiting = 0
            while data := client.recv(65536):
                waiting += len(data)
                while waiting >= len(FROM_CLIENT):
                    waiting -= len(FROM_CLIENT)
                    client.sendall(FROM_SERVER)
        except OSError:
            pass
        finally:
            client.close()


def opened(port: int, bearer: str) -> socket.socket:
    """Return a socket after its handshake."""
    client = socket.create_connection(("127.0.0.1", port))
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    key = base64.b64encode(os.urandom(16)).decode()
    fields = f"Host: proxy\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nAuthorization: Bearer {bearer}\r\n"
    fields += f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
    client.sendall(f"GET /v1/responses HTTP/1.1\r\n{fields}\r\n".encode())
    head = b""
    while b"\r\n\r\n" not in head:
        data = client.recv(4096)
        assert data, head
        head += data
    assert head.startswith(b"HTTP/1.1 101"), head
    return client


@contextmanager
def serving(responder: Responder, **variables: str) -> Iterator[Gateway]:
    """Run a gateway of one worker before the answering provider."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        more = {"API_CONFIG_PATH": provider_file(folder), "WS_MAX_SOCKETS_PER_TOKEN": "2000", "WS_MAX_SOCKETS": "2000"}
        with running_gateway(folder, f"http://127.0.0.1:{responder.port}", **more | variables) as gateway:
            yield gateway


def pss_kib(pid: int) -> int:
    """Return a process's proportional share of memory."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(next(line for line in rollup.splitlines() if line.startswith("Pss:")).split()[1])


def memory(number: int) -> dict[str, Any]:
    """Open as many sockets of one worker and leave them idle."""
    with serving(Responder()) as gateway, ExitStack() as stack:
        token = gateway.token(max_requests=1_000_000)
        (worker,) = gateway.workers()
        for _ in range(50):  # what the first ones load is no part of the price
            stack.enter_context(opened(gateway.port, token.bearer))
        before = pss_kib(worker)
        for _ in range(number):
            stack.enter_context(opened(gateway.port, token.bearer))
        after = pss_kib(worker)
        times = []
        for _ in range(300):
            began = time.perf_counter()
            assert gateway.get("/live")[0] == 200
            times.append((time.perf_counter() - began) * 1000)
        cpu = _cpu_s(worker)
        time.sleep(5)
        idle = (_cpu_s(worker) - cpu) / 5
    return {
        "sockets": number,
        "kib_each": round((after - before) / number, 1),
        "live_p50_ms": round(statistics.median(times), 2),
        "live_max_ms": round(max(times), 2),
        "cpu_percent_idle": round(100 * idle, 1),
    }


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def delay(messages: int) -> dict[str, Any]:
    """Ask and be told, in turn: directly, through nginx, through the proxy, again and again."""
    responder = Responder()
    port = free_port()
    with serving(responder) as gateway, tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        Path(name).chmod(0o777)
        cores = tuple(os.sched_getaffinity(0))[-1:]
        nginx = start_nginx(Path(name) / "nginx", cores, _NGINX.format(port=port, upstream=responder.port))
        stack.callback(nginx.stop)
        for pid in gateway.workers():
            os.sched_setaffinity(pid, cores)
        token = gateway.token(max_requests=1_000_000)
        ways = {"direct": responder.port, "nginx": port, "proxy": gateway.port}
        nginx.wait_until(lambda: socket.create_connection(("127.0.0.1", port)).close() is None)
        clients = {way: stack.enter_context(opened(port, token.bearer)) for way, port in ways.items()}
        times: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(messages):
            for way, client in clients.items():
                took = _round_trip(client)
                if number >= messages // 20:
                    times[way].append(took)
    p50 = {way: statistics.median(found) * 1000 for way, found in times.items()}
    p99 = {way: statistics.quantiles(found, n=100)[98] * 1000 for way, found in times.items()}
    added = {way: p50[way] - p50["direct"] for way in ("nginx", "proxy")}
    return {
        "round_trip_p50_ms": {way: round(value, 3) for way, value in p50.items()},
        "round_trip_p99_ms": {way: round(value, 3) for way, value in p99.items()},
        "added_ms": {way: round(value, 3) for way, value in added.items()},
        "times_nginx": round(added["proxy"] / added["nginx"], 2),
    }


def _round_trip(client: socket.socket) -> float:
    began = time.perf_counter()
    client.sendall(FROM_CLIENT)
    size = 0
    while size < len(FROM_SERVER):
        size += len(client.recv(65536))
    return time.perf_counter() - began


def revoke(tokens: int, sockets: int) -> dict[str, Any]:
    """Revoke each token's row at once; note when the last socket has its close frame and its end."""
    with serving(Responder(), WEB_CONCURRENCY="2") as gateway, ExitStack() as stack:
        project = gateway.project()
        issued = [gateway.token(project) for _ in range(tokens)]
        with ThreadPoolExecutor(8) as threads:
            wanted = [token.bearer for token in issued for _ in range(sockets)]
            found = list(threads.map(lambda bearer: stack.enter_context(opened(gateway.port, bearer)), wanted))
        selector = selectors.DefaultSelector()
        for client in found:
            client.setblocking(False)
            selector.register(client, selectors.EVENT_READ)
        gateway.execute("UPDATE tokens SET is_active = 0 WHERE project_id = ?", (project,))
        began = time.monotonic()
        told, ended = _ends(selector, len(found), began)
    return {"sockets": len(found), "told_s": round(told, 3), "all_closed_s": round(ended, 3)}


def _ends(selector: selectors.BaseSelector, number: int, began: float) -> tuple[float, float]:
    told, open_ones = 0.0, number
    while open_ones:
        assert time.monotonic() - began < 30, f"{open_ones} are still open"
        for key, _ in selector.select(1.0):
            client: Any = key.fileobj
            try:
                data = client.recv(65536)
            except ConnectionResetError:
                data = b""
            if data:
                assert data[0] == 0x88, data
                told = time.monotonic() - began
            else:
                selector.unregister(client)
                open_ones -= 1
    return told, time.monotonic() - began


def main() -> int:
    """Print what was measured as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("memory", "delay", "revoke"))
    parser.add_argument("--idle", type=int, default=1000, help="idle sockets of the measure of memory")
    parser.add_argument("--messages", type=int, default=4000, help="of the measure of delay, each way")
    arguments = parser.parse_args()
    if shutil.which("taskset") is None:
        parser.error("needs taskset (util-linux)")
    rows = {
        "memory": lambda: memory(arguments.idle),
        "delay": lambda: delay(arguments.messages),
        "revoke": lambda: revoke(100, 10),
    }
    for name, measure in rows.items():
        if arguments.only in (None, name):
            print(json.dumps({name: measure()}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
