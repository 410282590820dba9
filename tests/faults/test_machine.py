"""The proxy's own processes, its clock, its limits and its clients fail under load."""

import base64
import json
import os
import resource
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from faults.conftest import CHAT, STREAM, post
from support.databases import Postgres
from support.gateway import MANAGEMENT_TOKEN, PROVIDER_KEY, Gateway, Token, eventually, running_gateway
from support.processes import free_port
from support.provider import Provider
from support.raw import Client, Closed

pytestmark = pytest.mark.times

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
        return client.send(post(token.bearer)).response("POST").status
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


@pytest.mark.stamina
def test_a_client_that_reads_slowly(tmp_path: Path, provider: Provider) -> None:
    """It holds back its own stream alone, and the worker's memory stays."""
    with running_gateway(tmp_path, provider.url, CLIENT_WRITE_TIMEOUT="2s") as gateway:
        token, patient = gateway.token(), gateway.token()
        (worker,) = gateway.workers()
        with Client(gateway.address, receive_buffer=4096) as slow, load(gateway, token) as ended:
            before = resident_bytes(worker)
            slow.send(post(patient.bearer, STREAM, events=300_000, interval=0))
            (line,) = gateway.wait_for_access(1, 40, token_id=patient.id)
            assert line["response_bytes"] < 16 * _MIB
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
            assert slow.response("POST").status == 408
            assert 0.9 < time.monotonic() - began < 3
        assert set(ended) == {200}
        assert json.loads(gateway.get("/health")[2])


# -- replicas ---------------------------------------------------------------------------------------------------------


_NGINX = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream replicas {{
        {servers}
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://replicas;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 620s;
        }}
    }}
}}
"""


class Nginx:
    """A reverse proxy whose list of replicas can change."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        folder.chmod(0o777)
        self._folder, self.port = folder, free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def serve(self, *gateways: Gateway) -> None:
        """Start, or take another list; connections of before end by themselves."""
        servers = "\n".join(f"server 127.0.0.1:{gateway.port};" for gateway in gateways)
        conf = self._folder / "nginx.conf"
        conf.write_text(_NGINX.format(folder=self._folder, servers=servers, port=self.port))
        if self._process is None:
            program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
            assert program is not None, "nginx is not installed"
            self._process = subprocess.Popen(
                [program, "-p", self._folder, "-e", self._folder / "start.log", "-c", conf]
            )
        else:
            self._process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)


@pytest.mark.stamina
def test_a_rolling_restart(tmp_path: Path, provider: Provider, postgres_server: Postgres) -> None:
    """Two replicas behind nginx, each replaced in turn: no request is refused, no stream breaks."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    postgres_server.run(f"CREATE DATABASE {name}")
    shared = {"DB_DRIVER": "postgres", "DATABASE_URL": postgres_server.url(name), "WEB_CONCURRENCY": "1"}
    shared["ENCRYPTION_KEY"] = base64.b64encode(bytes(32)).decode()
    nginx = Nginx(tmp_path / "nginx")
    with ExitStack() as stack:

        def replica(number: int) -> Gateway:
            return stack.enter_context(running_gateway(tmp_path / f"replica-{number}", provider.url, **shared))

        (tmp_path / "replica-0").mkdir()
        old = [replica(0), replica(1)]
        stack.callback(nginx.stop)
        nginx.serve(*old)
        token = issued(old[0])
        front = replace(old[0], url=f"http://127.0.0.1:{nginx.port}", port=nginx.port)
        eventually(lambda: status_of(front, token) == 200)
        with load(front, token) as ended, streaming(front, token, 100) as one, streaming(front, token, 100) as other:
            serving = list(old)
            for place in range(2):
                serving[place], leaving = replica(2 + place), serving[place]
                nginx.serve(*serving)
                time.sleep(1.0)  # nginx replaces its worker
                leaving.process.send_signal(signal.SIGTERM)
            for stream in (one, other):
                stream.until(b"[DONE]")
            before = ended[200]
            eventually(lambda: ended[200] > before + 20)
        assert set(ended) == {200}


def issued(gateway: Gateway) -> Token:
    """A token made over the management API."""
    fields = {"Authorization": f"Bearer {MANAGEMENT_TOKEN}", "Content-Type": "application/json"}

    def manage(path: str, body: dict[str, object]) -> dict[str, str]:
        found: dict[str, str] = json.loads(gateway.ask("POST", path, json.dumps(body).encode(), headers=fields)[2])
        return found

    project = manage("/manage/projects", {"name": uuid.uuid4().hex, "api_key": PROVIDER_KEY})
    token = manage("/manage/tokens", {"project_id": project["id"], "duration_minutes": 60})
    return Token(token["id"], project["id"], token["token"])
