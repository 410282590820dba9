"""Questions between the workers of one server, over sockets in the server's folder (docs/adr/0187).

A worker listens on `w-PID.sock`. A question is one line of JSON, `[name, argument]`; the reply is lines of JSON, and
ends with the connection. The folder's mode is 0700, so only processes of the same user can ask. An idle server costs
nothing: no worker publishes what no worker asks for.
"""

import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import gevent
import gevent.server
import orjson

Handler = Callable[[Any], Iterable[Any]]
_MOST_QUESTION_BYTES: Final = 64 * 1024
_LIMIT_S: Final = 2.0  # for a worker that hangs
_PREFIX, _SUFFIX = "w-", ".sock"
_log = logging.getLogger(__name__)


class Peers:
    """The workers of a server, this one among them.

    Args:
        folder: The server's folder, made before the workers were forked.
        handlers: From the name of a question to what replies; a reply is a sequence of values for JSON.
    """

    def __init__(self, folder: Path, handlers: Mapping[str, Handler]) -> None:
        self._folder, self._handlers = folder, handlers
        self._server: gevent.server.StreamServer | None = None
        self._path: Path | None = None

    def start(self) -> None:
        """Listen; in the worker, after the fork. A folder that cannot be written is logged: others then see less."""
        name = f"{_PREFIX}{os.getpid()}{_SUFFIX}"
        try:
            listener = _listen(self._folder, name)
        except OSError as error:
            _log.warning("peers: this worker cannot be asked by the others: %s", error.strerror)
            return
        self._path = self._folder / name
        self._server = gevent.server.StreamServer(listener, self._serve)
        self._server.start()

    def close(self) -> None:
        """Listen no longer; connections that are open end with the process."""
        if self._server is not None:
            self._server.stop(timeout=0)
            self._server = None
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None

    def ask(self, name: str, argument: Any = None) -> list[Any]:
        """Return the values of all workers' replies. A worker that does not reply within 2 s is left out."""
        values = list(self._handlers[name](argument))
        for path in self._others():
            try:
                with _connected(self._folder, path.name, _LIMIT_S) as connection:
                    values += _values(connection, name, argument, time.monotonic() + _LIMIT_S)
            except (OSError, ValueError) as error:
                self._lost(path, error)
        return values

    def subscribe(self, name: str, argument: Any, put: Callable[[Any], None]) -> "Subscription":
        """Hand each value of every worker's reply to `put` until the result is closed. Needs gevent's loop."""
        return Subscription([_Reader(self._folder, path.name, name, argument, put) for path in self._others()])

    def _others(self) -> list[Path]:
        own = f"{_PREFIX}{os.getpid()}{_SUFFIX}"
        return sorted(path for path in self._folder.glob(f"{_PREFIX}*{_SUFFIX}") if path.name != own)

    @staticmethod
    def _lost(path: Path, error: Exception) -> None:
        if isinstance(error, ConnectionRefusedError):  # of a worker that was killed
            path.unlink(missing_ok=True)
            return
        if not isinstance(error, FileNotFoundError):
            _log.warning("peers: %s did not reply: %s", path.name, type(error).__name__)

    def _serve(self, connection: socket.socket, address: Any) -> None:
        try:
            question = orjson.loads(_line(connection, time.monotonic() + _LIMIT_S))
            for value in self._handlers[question[0]](question[1]):
                connection.sendall(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE))
        except (OSError, ValueError, LookupError, TypeError):
            pass  # the other end has left, or asks what this release does not know
        finally:
            connection.close()


class Subscription:
    """Replies that go on until it is closed."""

    def __init__(self, readers: "list[_Reader]") -> None:
        self._readers = readers

    def close(self) -> None:
        """End all of them."""
        for reader in self._readers:
            reader.close()


class _Reader:
    """One worker's reply, read by a greenlet."""

    def __init__(self, folder: Path, peer: str, name: str, argument: Any, put: Callable[[Any], None]) -> None:
        self._connection: socket.socket | None = None
        self._greenlet = gevent.spawn(self._run, folder, peer, name, argument, put)

    def close(self) -> None:
        """Stop reading."""
        self._greenlet.kill(block=False)
        if self._connection is not None:
            self._connection.close()

    def _run(self, folder: Path, peer: str, name: str, argument: Any, put: Callable[[Any], None]) -> None:
        with contextlib.suppress(OSError, ValueError), _connected(folder, peer, None) as connection:
            self._connection = connection
            for value in _values(connection, name, argument, None):
                put(value)


def _listen(folder: Path, name: str) -> socket.socket:
    """Return a listening socket of mode 0600. A path may have 107 bytes: the folder is named by its descriptor."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        (folder / name).unlink(missing_ok=True)
        with _short(folder) as short:
            listener.bind(f"{short}/{name}")
        os.chmod(folder / name, 0o600)
        listener.listen(16)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


@contextlib.contextmanager
def _connected(folder: Path, name: str, timeout_s: float | None) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        with _short(folder) as short:
            connection.connect(f"{short}/{name}")
        yield connection


@contextlib.contextmanager
def _short(folder: Path) -> Iterator[str]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _values(connection: socket.socket, name: str, argument: Any, deadline_s: float | None) -> Iterator[Any]:
    connection.sendall(orjson.dumps([name, argument], option=orjson.OPT_APPEND_NEWLINE))
    with connection.makefile("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                raise ValueError("half a line")
            yield orjson.loads(line)
            if deadline_s is not None and time.monotonic() > deadline_s:
                raise TimeoutError


def _line(connection: socket.socket, deadline_s: float) -> bytes:
    connection.settimeout(_LIMIT_S)
    found = b""
    while not found.endswith(b"\n"):
        piece = connection.recv(_MOST_QUESTION_BYTES)
        found += piece
        if not piece or len(found) > _MOST_QUESTION_BYTES or time.monotonic() > deadline_s:
            raise ValueError("no question")
    connection.settimeout(None)
    return found
