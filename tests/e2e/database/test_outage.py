"""The database is unavailable, at the start, under load or for good; and a SQLite file that another process holds."""

import json
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.databases import MariaDb, Postgres, Server, running
from support.gateway import MANAGEMENT_TOKEN, PROVIDER_KEY, Gateway, environment, eventually, running_gateway
from support.provider import Provider
from support.raw import Client, Closed, request

pytestmark = pytest.mark.times

CHAT = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}).encode()
STREAM = json.dumps({"model": "gpt-4o", "stream": True, "messages": [{"role": "user", "content": "hello"}]}).encode()
KINDS = {"postgres": Postgres, "mysql": MariaDb}


@pytest.fixture(scope="module", params=sorted(KINDS))
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A database server of this module's own, to be stopped and killed."""
    with running(KINDS[request.param]) as started:
        yield started


@pytest.fixture
def variables(server: Server) -> Iterator[dict[str, str]]:
    """DB_DRIVER and DATABASE_URL of an empty database."""
    if not server.is_serving():
        server.start()
    name = f"t_{uuid.uuid4().hex[:12]}"
    server.run(f"CREATE DATABASE {name}")
    yield {"DB_DRIVER": server.name, "DATABASE_URL": server.url(name)}
    if not server.is_serving():
        server.start()


class Manager:
    """Makes tokens over REST."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.project_id = self.call("POST", "/projects", {"name": uuid.uuid4().hex, "api_key": PROVIDER_KEY})[1]["id"]

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and JSON."""
        headers = {"Authorization": f"Bearer {MANAGEMENT_TOKEN}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        status, _, response = self._gateway.ask(method, f"/manage{path}", data, headers=headers)
        return status, json.loads(response) if response else None

    def token(self, **more: Any) -> Any:
        """A new token."""
        status, token = self.call("POST", "/tokens", {"project_id": self.project_id, "duration_minutes": 60, **more})
        assert status == 200, token
        return token


def _post(body: bytes, bearer: str, **plan: Any) -> bytes:
    fields = ["Content-Type: application/json", f"Authorization: Bearer {bearer}", f"X-Simulate: {json.dumps(plan)}"]
    return request("/v1/chat/completions", *fields, method="POST", body=body)


def _call(gateway: Gateway, bearer: str) -> tuple[int, str | None, bytes]:
    with Client(gateway.address) as client:
        response = client.send(_post(CHAT, bearer)).response("POST")
        return response.status, response.value("Retry-After"), response.body


def _ready(gateway: Gateway) -> tuple[int, bytes]:
    status, _, body = gateway.get("/ready")
    return status, body.strip()


def test_a_killed_database_is_503_and_comes_back_by_itself(
    tmp_path: Path, provider: Provider, server: Server, variables: dict[str, str]
) -> None:
    """Under load: 503 with Retry-After and never 401, a live stream ends whole, /ready says why, 200 within 2 s."""
    with running_gateway(tmp_path, provider.url, **variables, WEB_CONCURRENCY="2") as gateway:
        manager = Manager(gateway)
        limited, unlimited = manager.token(max_requests=100_000), manager.token()
        seen: list[tuple[float, int, str | None]] = []
        is_over = threading.Event()

        def load(bearer: str) -> None:
            while not is_over.is_set() and gateway.process.poll() is None:
                try:
                    status, retry_after, _ = _call(gateway, bearer)
                except (OSError, Closed):
                    return  # the test has failed, and its server is gone
                seen.append((time.monotonic(), status, retry_after))
                time.sleep(0.02)

        callers = [threading.Thread(target=load, args=(token["token"],)) for token in (limited, unlimited)]
        with Client(gateway.address) as stream:
            stream.send(_post(STREAM, unlimited["token"], events=60, interval=0.1))
            stream.until(b"data: ")
            for caller in callers:
                caller.start()
            eventually(lambda: len(seen) > 20)
            server.kill()
            eventually(lambda: [status for _, status, _ in seen[-6:]] == [503] * 6, 20, lambda: str(seen[-6:]))
            eventually(lambda: _ready(gateway) == (503, b"not ready: database"), 6, lambda: str(_ready(gateway)))
            assert gateway.get("/live")[0] == 200
            assert manager.call("GET", "/projects") == (503, {"error": "database unavailable"})
            server.start()
            back = time.monotonic()
            eventually(lambda: [status for _, status, _ in seen[-4:]] == [200] * 4, 10, lambda: str(seen[-6:]))
            assert max(at for at, status, _ in seen if status == 503) - back < 2.0
            stream.until(b"[DONE]")
        is_over.set()
        for caller in callers:
            caller.join(10)
        eventually(lambda: _ready(gateway)[0] == 200, 6)
        assert {status for _, status, _ in seen} == {200, 503}
        assert {retry for _, status, retry in seen if status == 503} == {"1"}
        eventually(lambda: _count(manager, unlimited) == provider_count(seen, unlimited, manager), 6)


def _count(manager: Manager, token: Any) -> int:
    return int(manager.call("GET", f"/tokens/{token['id']}")[1]["request_count"])


def provider_count(seen: list[tuple[float, int, str | None]], token: Any, manager: Manager) -> int:
    """All that was answered with 200, less what the limited token used, and the stream."""
    limited = [found for found in manager.call("GET", "/tokens")[1] if found["max_requests"]]
    return sum(status == 200 for _, status, _ in seen) + 1 - int(limited[0]["request_count"])


def test_a_frozen_database_holds_no_request_up_for_long(
    tmp_path: Path, provider: Provider, server: Server, variables: dict[str, str]
) -> None:
    """A server that hangs: 503 within a few seconds, other requests of the worker go on, and all is well afterwards."""
    with running_gateway(tmp_path, provider.url, **variables) as gateway:
        token = Manager(gateway).token()["token"]
        assert _call(gateway, token)[0] == 200
        server.pause()
        try:
            time.sleep(1.0)  # what is remembered is too old by then
            began = time.monotonic()
            status, retry_after, _ = _call(gateway, token)
            assert (status, retry_after) == (503, "1")
            assert time.monotonic() - began < 4
            began = time.monotonic()
            assert gateway.get("/live")[0] == 200
            assert time.monotonic() - began < 1
        finally:
            server.resume()
        eventually(lambda: _call(gateway, token)[0] == 200, 5)


def test_a_start_waits_for_the_database(
    tmp_path: Path, provider: Provider, server: Server, variables: dict[str, str]
) -> None:
    """Without it /live is 200 and /ready 503; when it comes, it is migrated, and the same process serves."""
    server.stop()
    with _starting(tmp_path, provider, variables) as gateway:
        eventually(lambda: _status(gateway, "/live") == 200, 30)
        assert _ready(gateway) == (503, b"not ready: database")
        assert _call(gateway, "sk-" + "a" * 22)[:2] == (503, "1")
        server.start()
        eventually(lambda: _status(gateway, "/ready") == 200, 15, gateway.output)
        token = Manager(gateway).token()["token"]
        assert _call(gateway, token)[0] == 200
        assert gateway.stop() == 0


def test_a_start_gives_up_after_its_bound(
    tmp_path: Path, provider: Provider, server: Server, variables: dict[str, str]
) -> None:
    """Past DATABASE_STARTUP_TIMEOUT: exit 1 and one line, with no password in it."""
    server.stop()
    with _starting(tmp_path, provider, {**variables, "DATABASE_STARTUP_TIMEOUT": "2s"}) as gateway:
        assert gateway.process.wait(30) == 1
        gateway.exit_code = 1
    assert "DATABASE_STARTUP_TIMEOUT" in gateway.output()
    assert "cr@t" not in gateway.output()


def _status(gateway: Gateway, path: str) -> int:
    try:
        return gateway.get(path)[0]
    except OSError:
        return 0


@contextmanager
def _starting(folder: Path, provider: Provider, variables: dict[str, str]) -> Iterator[Gateway]:
    """A server that is not waited for."""
    import socket

    (folder / "data").mkdir()
    env = environment(folder, provider.url, **variables)
    with socket.create_server(("127.0.0.1", 0)) as listener, (folder / "server.log").open("ab") as out:
        command = [sys.executable, "-m", "gunicorn", "-c", "python:llm_proxy.gunicorn_conf"]
        command += ["-b", f"fd://{listener.fileno()}", "llm_proxy.wsgi:app"]
        process = subprocess.Popen(command, pass_fds=[listener.fileno()], env=env, stdout=out, stderr=out, cwd=folder)
        port = listener.getsockname()[1]
    gateway = Gateway(f"http://127.0.0.1:{port}", port, folder, env, process)
    try:
        yield gateway
    finally:
        gateway.stop()


def test_a_held_sqlite_lock_delays_no_stream(tmp_path: Path, provider: Provider) -> None:
    """Another process holds the lock for 3 s: a stream keeps its 50 ms beat; a limited call waits, or has to retry."""
    with running_gateway(tmp_path, provider.url) as gateway:
        limited, unlimited, before = gateway.token(max_requests=5), gateway.token(), len(provider.seen())
        with Client(gateway.address) as stream:
            stream.send(_post(STREAM, unlimited.bearer, events=90, interval=0.05))
            stream.until(b"data: ")
            holder = sqlite3.connect(gateway.database, timeout=10, isolation_level=None, check_same_thread=False)
            holder.execute("BEGIN IMMEDIATE")
            release = threading.Timer(3.0, lambda: holder.execute("ROLLBACK"))
            release.start()
            found: list[tuple[int, str | None, bytes]] = []
            waiting = threading.Thread(target=lambda: found.append(_call(gateway, limited.bearer)))
            waiting.start()
            gaps, last = [], time.monotonic()
            while release.is_alive():
                stream.more()
                gaps.append(time.monotonic() - last)
                last = time.monotonic()
            waiting.join(15)
            release.join()
            holder.close()
        assert found[0][:2] in ((200, None), (503, "1"))
        eventually(lambda: _call(gateway, limited.bearer)[0] == 200, 5)
        assert len(gaps) > 30
        assert max(gaps) < 0.5, max(gaps)
        used = len(provider.wait_for(before + 2)) - before - 1  # without the stream
        eventually(lambda: gateway.request_count(limited) == used, 10, lambda: str(gateway.request_count(limited)))
