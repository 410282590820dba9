"""A provider whose responses a test writes, and a proxy of two workers before it."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from support.gateway import MANAGEMENT_TOKEN, Gateway, running_gateway

PUBLIC = (("Cache-Control", "public, max-age=600"),)
OPT_IN = {"Cache-Control": "public, max-age=60", "Content-Type": "application/json"}
BODY = json.dumps({"model": "text-embedding-3-small", "input": "hello"}).encode()


@dataclass
class Origin:
    """A provider whose responses a test writes (a negative status: it breaks off); counts what it is asked."""

    url: str = ""
    status: int = 200
    fields: tuple[tuple[str, str], ...] = PUBLIC
    pieces: tuple[bytes, ...] = (b"the response",)
    pause_s: float = 0.0
    is_cut: bool = False
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    def count(self, path: str) -> int:
        """How often it was asked for this target."""
        return sum(target == path for _, target, _ in self.asked)


class _Server(ThreadingHTTPServer):
    request_queue_size = 512
    daemon_threads = True


@contextmanager
def serving(origin: Origin) -> Iterator[Origin]:
    """Answer for `origin` until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            origin.asked.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
            time.sleep(origin.pause_s)
            if origin.status < 0:
                self.close_connection = True
                return
            known = {name.lower(): value for name, value in origin.fields}
            if "etag" in known and self.headers.get("If-None-Match") == known["etag"]:
                self.send_response(304)
                self.fields()
                self.end_headers()
                return
            self.send_response(origin.status)
            self.fields()
            content = b"".join(origin.pieces)
            self.send_header("Content-Length", str(len(content) + (10 if origin.is_cut else 0)))
            self.end_headers()
            if self.command != "HEAD":
                with suppress(OSError):  # the proxy's client has left, and the proxy with it
                    self.wfile.write(content)
            if origin.is_cut:
                self.close_connection = True

        do_GET = do_POST = do_HEAD = respond

        def fields(self) -> None:
            for name, value in origin.fields:
                self.send_header(name, value)

        def log_message(self, *args: Any) -> None:
            """Quiet."""

    server = _Server(("127.0.0.1", 0), Handler)
    origin.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield origin
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def shared_origin() -> Iterator[Origin]:
    """One for the module."""
    with serving(Origin()) as origin:
        yield origin


@pytest.fixture
def origin(shared_origin: Origin) -> Origin:
    """As if new."""
    fresh = Origin(url=shared_origin.url)
    shared_origin.__dict__.update(fresh.__dict__)
    return shared_origin


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, shared_origin: Origin) -> Iterator[Gateway]:
    """Two workers, and streams may be stored."""
    folder = tmp_path_factory.mktemp("gateway")
    with running_gateway(folder, shared_origin.url, WEB_CONCURRENCY="2", HTTP_CACHE_STREAM_RESPONSES="true") as running:
        yield running


_numbers = iter(range(1_000_000))


@pytest.fixture
def path() -> str:
    """A target that no other test has asked for."""
    return f"/v1/models/m{next(_numbers)}"


def state(response: tuple[int, dict[str, str], bytes]) -> str:
    """What the proxy says that its cache did."""
    return response[1]["X-PROXY-CACHE"]


def purge(gateway: Gateway, **body: Any) -> Any:
    """POST /manage/cache/purge."""
    headers = {"Authorization": f"Bearer {MANAGEMENT_TOKEN}"}
    status, _, response = gateway.ask("POST", "/manage/cache/purge", json.dumps(body).encode(), headers=headers)
    assert status == 200, response
    return json.loads(response)["deleted"]
