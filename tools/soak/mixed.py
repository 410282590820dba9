"""A long mixed run, by hand: `python tools/soak/mixed.py [--database NAME]`. Needs nginx, wrk and taskset.

One worker on SQLite, or on a new PostgreSQL or MariaDB; a token with a quota, and requests of many kinds: short,
refused, failing at the provider, of 400 KB, forms, streams, and clients that leave in the middle of a stream or
of their body. Prints memory and descriptors as it goes; at the end, what the provider's log has beside
what the token was charged. Ends with 1 where they differ.
"""

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[1] / "bench"), str(HERE.parents[2] / "tests")]

from contestants import Gateway, Upstream, start_nginx  # noqa: E402
from machine import Process, free_port, is_serving, tree  # noqa: E402
from payload import RESPONSE, STREAM_BODY, raw_request  # noqa: E402

SECONDS = 5  # of a slice of load
CLIENTS = 3  # of streams
SERVING, LOADING = (0,), (1,)
END = b"0\r\n\r\n"
LOAD = """
local requests, n = {}, 0
local shares = {84, 5, 4, 3, 2, 2}
function init(args)
  for kind, name in ipairs(args) do
    local file = assert(io.open(name, "rb"))
    local request = file:read("*a")
    for _ = 1, shares[kind] do requests[#requests + 1] = request end
  end
end
function request()
  n = n + 1
  return requests[n * 37 % 100 + 1]
end
function done(summary, latency, r)
  local e = summary.errors
  io.write(string.format('\\n{"requests":%d,"bad":%d}\\n', summary.requests, e.connect + e.read + e.write + e.timeout))
end
"""


def provider(folder: Path, upstream: Upstream) -> tuple[Process, int]:
    """Start a provider that keeps a log: canned responses, 429 for `?fail=1`, and streams for `?events=…`."""
    port = free_port()
    response = RESPONSE.replace("'", "\\'")
    process = start_nginx(
        folder / "provider",
        LOADING,
        f"""
    client_max_body_size 100m;
    client_body_buffer_size 1m;
    log_format kinds '$request_method $status';
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        access_log {folder}/provider/seen.log kinds buffer=64k flush=1s;
        error_page 418 = @stream;
        location / {{
            if ($arg_events) {{ return 418; }}
            if ($arg_fail) {{ return 429 '{{"error":{{"message":"slow down"}}}}'; }}
            return 200 '{response}';
        }}
        location @stream {{
            proxy_pass http://127.0.0.1:{upstream.stream_port};
            proxy_http_version 1.1;
            proxy_buffering off;
        }}
    }}""",
    )
    process.wait_until(lambda: is_serving(port, "/"))
    return process, port


def kinds(gateway: Gateway) -> list[bytes]:
    """Return one request of each kind that `LOAD` mixes."""
    port, token = gateway.port, gateway.token
    usual = raw_request(port, token)
    large = {"model": "gpt-4o", "messages": [{"role": "user", "content": "z" * 400_000}]}
    part = b'--XX\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
    form = (
        part % (b"model", b"", b"whisper-1") + part % (b"file", b'; filename="a"', os.urandom(60_000)) + b"--XX--\r\n"
    )
    multipart = raw_request(port, token, form).replace(
        b"application/json\r\nUser", b"multipart/form-data; boundary=XX\r\nUser"
    )
    return [
        usual,
        raw_request(port, "sk-" + "0" * 32),
        usual.replace(b"/v1/chat/completions", b"/v1/nothing", 1),
        raw_request(port, token, query="?fail=1"),
        raw_request(port, token, json.dumps(large).encode()),
        multipart.replace(b"/v1/chat/completions", b"/v1/audio/transcriptions", 1),
    ]


class Streams:
    """Clients that read streams, or leave in the middle of one, or of their request's body."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway, self.counts = gateway, Counter[str]()
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Wait for all of them."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        number = 0
        while not self._is_over.is_set():
            number += 1
            with socket.create_connection(("127.0.0.1", self._gateway.port)) as client:
                client.settimeout(30)
                try:
                    self.counts[self._one(client, number % 5)] += 1
                except OSError:
                    self.counts["failed"] += 1

    def _one(self, client: socket.socket, kind: int) -> str:
        port, token = self._gateway.port, self._gateway.token
        if kind == 4:
            client.sendall(raw_request(port, token)[:-100])
            return "left in the body"
        events = 200 if kind == 3 else 5
        client.sendall(raw_request(port, token, STREAM_BODY, f"?events={events}&interval_ms=5"))
        data = client.recv(65536)
        if kind == 3:
            return "left in the stream"
        while not data.endswith(END) and (more := client.recv(65536)):
            data += more
        return "whole" if data.endswith(END) and b" 200 " in data[:16] else "failed"


def load(folder: Path, gateway: Gateway, names: list[str]) -> tuple[int, int]:
    """Run one slice; return its requests, and how many had no response."""
    command = ["taskset", "-c", str(LOADING[0]), "wrk", "-t1", "-c16", "-d", f"{SECONDS}s", "--timeout", "20s"]
    command += ["-s", str(folder / "load.lua"), f"http://127.0.0.1:{gateway.port}/", "--", *names]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    totals = json.loads(done.stdout.strip().splitlines()[-1])
    return totals["requests"], totals["bad"]


def show(worker: int, requests: int) -> None:
    """Print a line: the worker's memory is that of its pages of data, shared with the master or not."""
    rollup = Path(f"/proc/{worker}/smaps_rollup").read_text().splitlines()
    kib = next(int(line.split()[1]) for line in rollup if line.startswith("Anonymous:"))
    descriptors = len(os.listdir(f"/proc/{worker}/fd"))
    print(f"{requests:>8} requests: {kib / 1024:.1f} MiB, {descriptors} descriptors", flush=True)


@contextlib.contextmanager
def database(name: str) -> Iterator[Mapping[str, str]]:
    """Yield the settings of an empty database; start its server as the tests do."""
    if name == "sqlite":
        yield {}
        return
    from support.databases import MariaDb, Postgres, running

    with running({"postgres": Postgres, "mysql": MariaDb}[name]) as server:
        server.run("CREATE DATABASE soak")
        yield {"DB_DRIVER": name, "DATABASE_URL": server.url("soak")}


def run(folder: Path, requests: int, settings: Mapping[str, str]) -> int:
    """Run all of it; return the exit code."""
    upstream = Upstream(folder, LOADING, LOADING)
    process, port = provider(folder, upstream)
    gateway = Gateway(folder / "gateway", SERVING, port, "gateway", max_requests=10**9, env=settings)
    try:
        return _run(folder, gateway, requests)
    finally:
        gateway.stop()
        process.stop()
        upstream.stop()


def _run(folder: Path, gateway: Gateway, requests: int) -> int:
    worker = max(tree(gateway.process.pid))
    (folder / "load.lua").write_text(LOAD)
    names = [str(folder / f"{number}.bin") for number in range(6)]
    for name, request in zip(names, kinds(gateway), strict=True):
        Path(name).write_bytes(request)
    streams, sent, lost, shown = Streams(gateway), 0, 0, 0
    while sent + streams.counts.total() < requests:
        more, bad = load(folder, gateway, names)
        sent, lost = sent + more, lost + bad
        if sent >= shown:
            show(worker, sent + streams.counts.total())
            shown = sent + requests // 20
    streams.end()
    time.sleep(SECONDS)  # the provider's log is written each second
    show(worker, sent + streams.counts.total())
    print(f"{sent} by wrk, {lost} without a response; streams: {dict(streams.counts)}")
    return _compare(folder, gateway)


def _compare(folder: Path, gateway: Gateway) -> int:
    lines = (folder / "provider" / "seen.log").read_text().splitlines()
    seen, charged = sum(line.startswith("POST") for line in lines), gateway.request_count()
    print(f"the provider saw {seen} {dict(Counter(lines))}, the token was charged {charged}")
    return int(seen != charged)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--database", choices=("sqlite", "postgres", "mysql"), default="sqlite")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llm-proxy-soak-") as name, database(given.database) as chosen:
        Path(name).chmod(0o755)
        sys.exit(run(Path(name), given.requests, chosen))
