"""An upstream that does what a test's script says, on this process's gevent hub: plain, by TLS, or behind a proxy."""

import datetime
import ipaddress
import socket as native
import struct
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import gevent
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from gevent import socket, ssl
from gevent.event import Event

HOST = "upstream.test"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Gone(Exception):
    """The peer ended the connection; ends a script that has nothing else to say."""


class Connection:
    """The upstream's side of one connection; everything that came is kept in `received`."""

    def __init__(self, sock: Any) -> None:
        self.sock = sock
        self.received = b""
        self._buffer = b""
        self.ended = Event()
        self.was_resumed: bool | None = None
        self.alpn: str | None = None

    def recv(self) -> bytes:
        """What has arrived; raises Gone at the end, however it came."""
        try:
            data: bytes = self.sock.recv(65536)
        except OSError:
            data = b""
        if not data:
            self.ended.set()
            raise Gone
        self.received += data
        return data

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            self._buffer += self.recv()
        part, self._buffer = self._buffer.split(mark, 1)
        return part + mark

    def read(self, n: int) -> bytes:
        """Exactly n bytes of a body."""
        while len(self._buffer) < n:
            self._buffer += self.recv()
        part, self._buffer = self._buffer[:n], self._buffer[n:]
        return part

    def read_some(self) -> bytes:
        """What is there of a long body, without keeping it."""
        data, self._buffer = self._buffer, b""
        if not data and not (data := self.sock.recv(262144)):
            raise Gone
        return data

    def head(self) -> bytes:
        """A request's header section."""
        return self._until(b"\r\n\r\n")

    def request(self) -> tuple[bytes, bytes]:
        """A whole request: header section, content without its framing."""
        head = self.head()
        lower = head.lower()
        if b"transfer-encoding: chunked" in lower:
            content = b""
            while size := int(self._until(b"\r\n"), 16):
                content += self.read(size)
                assert self.read(2) == b"\r\n"
            assert self._until(b"\r\n") == b"\r\n"
            return head, content
        length = lower.partition(b"content-length:")[2].split(b"\r\n")[0]
        return head, self.read(int(length or 0))

    def send(self, *parts: bytes, pause_s: float = 0.002) -> None:
        """Each part in its own packet."""
        for number, part in enumerate(parts):
            if number:
                gevent.sleep(pause_s)
            self.sock.sendall(part)

    def wait_for_end(self) -> None:
        """Swallow until the peer ends the connection."""
        with suppress(Gone):
            while True:
                self.recv()

    def close(self) -> None:
        """The clean end: over TLS with close_notify."""
        if isinstance(self.sock, ssl.SSLSocket) and self.sock._sslobj is not None:
            with suppress(OSError):
                self.sock._sslobj.shutdown()
        self.fin()

    def fin(self) -> None:
        """A bare FIN; over TLS a cut."""
        self.ended.set()
        with suppress(OSError):
            self.sock.close()

    def reset(self) -> None:
        """RST."""
        with suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.fin()


Script = Callable[[Connection], object]


def responding(*responses: bytes) -> Script:
    """Read a request, send a response, permanently; each request gets the next response, then the last one again."""

    def script(c: Connection) -> None:
        number = 0
        while True:
            c.request()
            c.send(responses[min(number, len(responses) - 1)])
            number += 1

    return script


def once(*parts: bytes) -> Script:
    """Read a request, send these packets, close cleanly."""

    def script(c: Connection) -> None:
        c.request()
        c.send(*parts)

    return script


class Server:
    """Listens on a free loopback port; the n-th connection gets the n-th script, later ones the last."""

    def __init__(self, context: Any = None) -> None:
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(128)
        self.port: int = self._listener.getsockname()[1]
        self._context = context
        self.scripts: list[Script] = []
        self.connections: list[Connection] = []
        self.faults: list[BaseException] = []
        self.ends = 0
        self._greenlets: list[Any] = [gevent.spawn(self._accept)]

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            c = Connection(sock)
            script = self.scripts[min(len(self.connections), len(self.scripts) - 1)]
            self.connections.append(c)
            self._greenlets.append(gevent.spawn(self._serve, c, script))

    def _serve(self, c: Connection, script: Script) -> None:
        try:
            if self._context is not None:
                c.sock = self._context.wrap_socket(c.sock, server_side=True, do_handshake_on_connect=False)
                c.sock.do_handshake()
                c.was_resumed, c.alpn = c.sock.session_reused, c.sock.selected_alpn_protocol()
            script(c)
        except (Gone, OSError):
            self.ends += 1  # what the peer does to us is the test's business
        except AssertionError as exc:
            self.faults.append(exc)
        finally:
            c.close()

    def speak_plain(self) -> None:
        """Leave the TLS client alone with its handshake."""
        self._context = None

    def stop_listening(self) -> None:
        """New connections are refused."""
        self._listener.close()
        gevent.sleep(0.001)

    def close(self) -> None:
        self._listener.close()
        gevent.killall(self._greenlets)
        for c in self.connections:
            c.fin()
        gevent.sleep(0.001)  # gevent closes descriptors on the hub's next turn
        assert not self.faults, self.faults


class Proxy(Server):
    """Answers CONNECT and pipes to `target_port`, whatever name was asked for; `asked` keeps the heads."""

    def __init__(self, target_port: int) -> None:
        super().__init__()
        self.asked: list[bytes] = []
        self._target_port = target_port
        self.scripts = [self._connect]

    def _connect(self, c: Connection) -> None:
        self.asked.append(c.head())
        there = socket.create_connection(("127.0.0.1", self._target_port))
        back = gevent.spawn(_pipe, there, c.sock)
        try:
            c.send(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 test\r\n\r\n")
            _pipe(c.sock, there)
            back.join()
        finally:
            back.kill()
            there.close()


def _pipe(source: Any, sink: Any) -> None:
    """Forward until the end, and the kind of end too."""
    try:
        while data := source.recv(16384):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        with suppress(OSError):
            sink.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sink.close()
        with suppress(OSError):
            source.close()


# -- certificates ------------------------------------------------------------------------------------------------------


class Authority:
    """A certificate authority of the test run's own; `bundle` is its certificate."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test authority")])
        self.bundle = folder / "authority.pem"
        self.bundle.write_bytes(self._sign(self._name, self._key, is_authority=True))

    def context(self, name: str = HOST, *, days: int = 30, self_signed: bool = False, alpn: bool = True) -> Any:
        """A server context with a certificate for `name` that is good for `days` from now (negative: expired)."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        path = self._folder / f"{name}-{days}-{self_signed}.pem"
        certificate = self._sign(subject, key, days=days, dns=name, issuer_key=key if self_signed else None)
        path.write_bytes(
            certificate
            + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        if alpn:
            context.set_alpn_protocols(["h2", "http/1.1"])
        return context

    def hashed_name(self) -> str:
        """What OpenSSL looks for in a folder of authorities."""
        command = ["openssl", "x509", "-noout", "-subject_hash", "-in", str(self.bundle)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        *,
        days: int = 30,
        dns: str | None = None,
        is_authority: bool = False,
        issuer_key: ec.EllipticCurvePrivateKey | None = None,
    ) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if issuer_key else self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=60))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        if dns is not None:
            names: list[x509.GeneralName] = [x509.DNSName(dns), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(issuer_key or self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def found(host: str, port: int) -> list[Any]:
    """A look-up that knows every name as 127.0.0.1."""
    return [(native.AF_INET, native.SOCK_STREAM, 6, "", ("127.0.0.1", port))]


class FullBacklog:
    """A port on which a connection attempt waits permanently: no process accepts, and the queue is full."""

    def __init__(self) -> None:
        self._listener = native.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(0)
        self.port: int = self._listener.getsockname()[1]
        self._waiting = []
        for _ in range(4):
            sock = native.socket()
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", self.port))
            self._waiting.append(sock)

    def close(self) -> None:
        for sock in (*self._waiting, self._listener):
            sock.close()
