"""Whether an address can be listened on, found out before anything else is done."""

import errno
import http.client
import os
import socket
import ssl
import stat
from collections.abc import Iterator

from llm_proxy.cli.errors import CommandError
from llm_proxy.runtime import shared_dir
from llm_proxy.server.configuration import binds
from llm_proxy.settings.variable import ListenAddress


def require_free(address: ListenAddress) -> None:
    """Raise CommandError, in one line, when the address is in use or may not be taken.

    An address that the workers of a killed server still hold passes: the server waits for it when it starts.
    """
    try:
        for family, place in _places(address):
            with socket.socket(family, socket.SOCK_STREAM) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind(place)
                sock.listen(1)  # on Linux, two listeners with SO_REUSEADDR clash only here
    except socket.gaierror:
        raise CommandError(f"cannot listen on {address}: unknown host") from None
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            if _is_held_by_orphans(address):
                return
            raise _in_use(address) from None
        raise CommandError(f"cannot listen on {address}: {(exc.strerror or 'not usable').lower()}") from None
    if address.path is not None and _is_in_use(address.path) and not _is_held_by_orphans(address):
        raise _in_use(address)


def _is_held_by_orphans(address: ListenAddress) -> bool:
    return any(shared_dir.is_held_by_orphans(place) for place in binds(address))


def _in_use(address: ListenAddress) -> CommandError:
    """Return the refusal, with a near port that is free where there is one."""
    closest = next((port for port in range(address.port + 1, address.port + 20) if _is_free(address, port)), None)
    other = "another LISTEN_ADDR" if closest is None else f"LISTEN_ADDR={ListenAddress(address.host, closest)}"
    return CommandError(f"cannot listen on {address}: address already in use; stop what listens there, or set {other}")


def _is_free(address: ListenAddress, port: int) -> bool:
    if address.path is not None:
        return False
    try:
        socket.create_server((address.host or "127.0.0.1", port)).close()
    except (OSError, OverflowError):
        return False
    return True


def _places(address: ListenAddress) -> Iterator[tuple[socket.AddressFamily, tuple[str, int]]]:
    """Families and places that the server will bind; none for a Unix socket."""
    if address.path is not None:
        return
    if address.host:
        for family, _, _, _, place in socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM):
            yield family, (str(place[0]), int(place[1]))
            return
    yield socket.AF_INET, ("", address.port)
    if socket.has_dualstack_ipv6():
        yield socket.AF_INET6, ("", address.port)


def _is_in_use(path: str) -> bool:
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return True  # something else has the name; leave it alone
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
    except OSError:
        return False
    return True


def place(address: ListenAddress, *, is_tls: bool) -> tuple[str, str]:
    """URL for this machine, and what curl needs to reach it."""
    scheme, options = ("https", "-k ") if is_tls else ("http", "")
    if address.path is not None:
        return f"{scheme}://localhost", f"{options}--unix-socket {address.path} "
    host = address.host if address.host not in ("", "0.0.0.0", "::") else "127.0.0.1"  # noqa: S104  (compared)
    return f"{scheme}://{ListenAddress(host, address.port)}", options


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=2)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket of the file."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(2)
        self.sock.connect(self._path)


def is_serving(address: ListenAddress, path: str, *, is_tls: bool) -> bool:
    """Whether a server there answers 200 to a GET; any certificate will do, because it is this machine's own."""
    connection: http.client.HTTPConnection
    host = address.host if address.host not in ("", "0.0.0.0", "::") else "127.0.0.1"  # noqa: S104  (compared)
    if address.path is not None:
        connection = _UnixConnection(address.path)
    elif is_tls:
        anyone = ssl._create_unverified_context()  # noqa: S323  (on this machine)
        connection = http.client.HTTPSConnection(host, address.port, timeout=2, context=anyone)
    else:
        connection = http.client.HTTPConnection(host, address.port, timeout=2)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
