"""The image's health check knows what its container runs."""

import importlib.util
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType

import pytest
from image.dockerfile import ROOT


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, with a temporary folder in place of /tmp and no variable set."""
    spec = importlib.util.spec_from_file_location("healthcheck", ROOT / "docker" / "healthcheck.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "TEMPORARY", tmp_path)
    for name in ("LISTEN_ADDR", "ENABLE_TLS", "ADMIN_UI_LISTEN_ADDR"):
        monkeypatch.delenv(name, raising=False)
    return module


class _Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the test looks at the response."""


@pytest.fixture
def port() -> Iterator[int]:
    """A server on loopback that is well."""
    with HTTPServer(("127.0.0.1", 0), _Health) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def note(check: ModuleType, *words: str) -> None:
    (check.TEMPORARY / "llm-proxy.command").write_text("".join(f"{word}\n" for word in words))


def test_the_proxy_is_asked_where_it_listens(
    check: ModuleType, port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By LISTEN_ADDR, or the flag that wins over it."""
    note(check, "server")
    monkeypatch.setenv("LISTEN_ADDR", f":{port}")
    assert check.main() == 0
    note(check, "server", "--addr", "127.0.0.1:1")
    assert check.main() == 1
    assert "server: " in capsys.readouterr().out
    note(check, "server", f"--addr=127.0.0.1:{port}")
    assert check.main() == 0


def test_the_admin_ui_is_asked_on_its_own_port(check: ModuleType, port: int) -> None:
    """Not on 8080, where nothing listens in its container."""
    note(check, "admin", "--listen", f":{port}", "--api-base-url", "http://elsewhere:8080")
    assert check.main() == 0


def test_the_dispatcher_is_well_while_its_loop_turns(check: ModuleType) -> None:
    """By the age of the file that it touches."""
    note(check, "dispatcher", "--service", "file")
    assert check.main() == 1
    beat = check.TEMPORARY / "llm-proxy-dispatcher.alive"
    beat.touch()
    assert check.main() == 0
    os.utime(beat, (time.time() - 100, time.time() - 100))
    assert check.main() == 1


def test_what_is_not_known_is_well_while_it_runs(check: ModuleType) -> None:
    """A migration, a shell: there is no server to ask."""
    assert check.main() == 0
    note(check, "dispatcher", "dead-letters", "list")
    assert check.main() == 0


@pytest.mark.parametrize(
    ("address", "is_tls", "wanted"),
    [
        (":8080", False, "http://127.0.0.1:8080/health"),
        ("0.0.0.0:80", True, "https://127.0.0.1:80/health"),
        ("[::]:8080", False, "http://[::1]:8080/health"),
        ("10.0.0.1:8080", False, "http://10.0.0.1:8080/health"),
    ],
)
def test_an_address_becomes_a_url(check: ModuleType, address: str, is_tls: bool, wanted: str) -> None:
    """All addresses means loopback; TLS is asked by https."""
    assert check.url(address, is_tls=is_tls) == wanted
