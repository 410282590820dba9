"""The start: what is refused, in one line each, and where the server then listens."""

import datetime
import os
import signal
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from support.gunicorn_server import Server, begin_streams, in_parallel
from support.processes import free_port
from support.raw import Client, request, wait_for


def refused(start: Callable[..., Server], *options: Any, **env: Any) -> Any:
    """What a start that must fail says; without a traceback, with exit code 1, leaving nothing behind."""
    server = start(*options, ready=False, is_whole=True, TMPDIR=os.environ.get("TMPDIR", "/tmp"), **env)
    assert server.ended(15) == 1, server.log
    assert "Traceback" not in server.log
    assert "started" not in server.hook_calls
    return server.log


def test_a_management_token_is_required(start: Callable[..., Server]) -> None:
    """One line that names the variable and what is expected, and one for a name that was meant for it."""
    log = refused(start, MANAGEMENT_TOKEN="", MANAGEMENT_TOKN="x")
    assert [line for line in log.splitlines() if line] == [
        "Error: MANAGEMENT_TOKEN is not set: add MANAGEMENT_TOKEN=<32 random characters> to .env or the environment",
        "MANAGEMENT_TOKN is not a setting; did you mean MANAGEMENT_TOKEN?",
    ]


def test_all_faults_are_told_at_once(start: Callable[..., Server]) -> None:
    """A line each."""
    log = refused(start, DRAIN_TIMEOUT="soon", KEEPALIVE_TIMEOUT="0", API_CONFIG_PATH="/no/such/file.yaml")
    for name in ("DRAIN_TIMEOUT=soon: expected", "KEEPALIVE_TIMEOUT=0: expected", "/no/such/file.yaml"):
        assert len([line for line in log.splitlines() if name in line]) == 1, log


def test_options_that_would_break_the_server_are_refused(start: Callable[..., Server]) -> None:
    """The command line beats our file, so it is checked."""

    def check(options: Any) -> None:
        word = "--worker-class" if options[0] == "-k" else options[0]
        assert word in refused(start, *options)

    in_parallel(check, [("--preload",), ("-k", "sync"), ("-k", "gevent"), ("--reload",)])


def test_a_busy_address_is_one_line(start: Callable[..., Server]) -> None:
    """Before the database is touched, and without five seconds of trying."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = start(ready=False, is_whole=True, LISTEN_ADDR=f"127.0.0.1:{port}")
        assert server.ended(10) == 1
        assert f"LISTEN_ADDR=127.0.0.1:{port}: address already in use" in server.log
        assert not (server.folder / "data.db").exists()


def test_all_addresses_of_both_versions(start: Callable[..., Server]) -> None:
    """`:port`; an IPv4 client is shown with its IPv4 address."""
    port = free_port()
    server = start(ready=False, LISTEN_ADDR=f":{port}")
    server.address = ("127.0.0.1", port)
    server.wait_ready()
    assert b'"addr": "127.0.0.1"' in server.get("/echo").body
    if socket.has_dualstack_ipv6():
        server.address = ("::1", port)
        assert b'"addr": "::1"' in server.get("/echo").body


def test_a_unix_socket(start: Callable[..., Server], tmp_path: Path) -> None:
    """A dead server's socket file is taken over; a live one's is not; the file goes with the server."""
    path = tmp_path / "s"
    server = start(ready=False, LISTEN_ADDR=f"unix:{path}")
    server.address = str(path)
    server.wait_ready()
    assert server.get("/echo").status == 200
    second = start(ready=False, LISTEN_ADDR=f"unix:{path}")
    assert second.ended(10) == 1
    assert "address already in use" in second.log
    server.signal(signal.SIGKILL)
    wait_for(lambda: server.process.poll() is not None)
    wait_for(lambda: _is_dead(path), 5)
    third = start(ready=False, LISTEN_ADDR=f"unix:{path}")
    third.address = str(path)
    third.wait_ready()
    third.stop()
    assert not path.exists()


def _is_dead(path: Any) -> Any:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) != 0


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: Any) -> Any:
    """A self-signed one for localhost."""
    folder = tmp_path_factory.mktemp("tls")
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(
        now + datetime.timedelta(days=1)
    )
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    made = builder.sign(key, hashes.SHA256())
    (folder / "crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    (folder / "key").write_bytes(pem)
    return folder


@pytest.mark.times
def test_tls_with_a_minimum_version(start: Callable[..., Server], certificate: Any) -> None:
    """HTTPS, streams, refusals and breaks; a client below TLS_MIN_VERSION, or without TLS, is turned away."""
    server = start(
        ready=False,
        ENABLE_TLS="true",
        TLS_CERT_FILE=str(certificate / "crt"),
        TLS_KEY_FILE=str(certificate / "key"),
        TLS_MIN_VERSION="1.3",
        REQUEST_HEADER_TIMEOUT="1s",
    )
    context = ssl.create_default_context(cafile=str(certificate / "crt"))
    wait_for(lambda: "started" in server.hook_calls, 20)
    with Client(server.address, tls=context) as client:
        assert client.get("/echo").body.count(b'"scheme": "https"') == 1
        assert client.get("/stream/3/0").end == "whole"
        client.send(b"GET /stream/2/0 HTTP/1.0\r\n\r\n")
        assert client.rest()[1] == "eof"  # with TLS's own goodbye
    with Client(server.address, tls=context) as client:
        assert client.get("/#").status == 400
    with Client(server.address, tls=context) as client:
        client.send(b"POST /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n" + b"x" * 3_000_000)
        assert client.response().status == 413
    with Client(server.address, tls=context) as client:
        client.send(b"GET /broken/close/after/value HTTP/1.0\r\n\r\n")
        assert client.response().end == "reset"
    old = ssl.create_default_context(cafile=str(certificate / "crt"))
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError), Client(server.address, tls=old):
        pytest.fail("TLS 1.2 was accepted")
    with Client(server.address) as silent, Client(server.address) as plain:
        plain.send(request("/"))
        assert not plain.rest()[0].startswith(b"HTTP")
        assert silent.closed_within(5) < 4  # the handshake has the head's time limit
    with Client(server.address, tls=context) as idle:
        idle.get("/")
        server.signal(signal.SIGTERM)
        assert server.ended(4) == 0


def test_connections_are_bounded_by_the_descriptor_limit(start: Callable[..., Server]) -> None:
    """min(20,000, (limit − 200) / 2), with the soft limit raised to the hard one."""
    server = start()
    connections, workers = map(int, server.get("/connections").body.split())
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limit = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    assert (connections, workers) == (min(20_000, (limit - 200) // 2), 1)


def test_the_temporary_metrics_folder_goes_with_the_server(start: Callable[..., Server], tmp_path: Path) -> None:
    """It is made when PROMETHEUS_MULTIPROC_DIR is unset."""
    (tmp_path / "tmp").mkdir()
    server = start(TMPDIR=str(tmp_path / "tmp"))
    assert len(list((tmp_path / "tmp").glob("llm-proxy-metrics-*"))) == 1
    server.stop()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_folders_of_a_killed_server_go_with_the_next_start(start: Callable[..., Server], tmp_path: Path) -> None:
    """Those of a server that lives stay."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    killed, living = (start(is_whole=True, TMPDIR=str(folder)) for _ in range(2))
    pids = killed.pids()
    killed.signal(signal.SIGKILL)
    killed.ended()
    wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), 5)
    assert len(list(folder.iterdir())) == 4
    start(is_whole=True, TMPDIR=str(folder))
    assert len(list(folder.iterdir())) == 4
    assert living.get("/").status == 200


def test_sigterm_during_the_start_leaves_no_folder(start: Callable[..., Server], tmp_path: Path) -> None:
    """As soon as there is a folder; gunicorn's own handlers come later."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    server = start(ready=False, is_whole=True, TMPDIR=str(folder))
    wait_for(lambda: list(folder.iterdir()))
    server.terminate()
    assert server.ended(10) == 0
    assert list(folder.iterdir()) == []


def test_a_start_after_a_kill_waits_for_the_address(start: Callable[..., Server]) -> None:
    """The workers of the killed master still listen; no grace holds them up."""
    address = f"127.0.0.1:{free_port()}"
    killed = start(ready=False, is_whole=True, LISTEN_ADDR=address, SHUTDOWN_GRACE="30s")
    killed.address = ("127.0.0.1", int(address.rpartition(":")[2]))
    killed.wait_ready()
    killed.signal(signal.SIGKILL)
    killed.ended()
    following = start(ready=False, is_whole=True, LISTEN_ADDR=address)
    following.address = killed.address
    children = Path(f"/proc/{following.process.pid}/task/{following.process.pid}/children")

    def serves() -> bool:
        assert following.process.poll() is None, following.log
        try:
            return following.get("/ready").body.split()[0].decode() in children.read_text().split()
        except (OSError, EOFError):
            return False

    wait_for(serves, 15)


def test_the_start_line_tells_what_runs(start: Callable[..., Server]) -> None:
    """Version, driver, database, bus, cache, encryption, workers, bind; then the warnings."""
    server = start(is_whole=True, MANAGEMENT_TOKEN="feeble", WEB_CONCURRENCY="2")
    line = next(line for line in server.log.splitlines() if " starts " in line)
    for word in (
        "driver=sqlite",
        "database=",
        "event_bus=in-memory",
        "cache=",
        "encryption=false",
        "workers=2",
        "bind=",
    ):
        assert word in line
    assert "ENCRYPTION_KEY is not set" in server.log
    assert "MANAGEMENT_TOKEN is shorter" in server.log
    begin_streams(server, 1)[0].sock.close()
