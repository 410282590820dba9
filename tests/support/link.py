"""The line to a server, which a test can break in the ways in which lines and servers break."""

import contextlib
import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum

SLOW_S = 0.15  # that each piece is late


class State(Enum):
    """What the line does."""

    UP = "up"
    STOPPED = "stopped"  # connections are closed in good order, new ones refused
    KILLED = "killed"  # connections are reset, new ones refused
    FROZEN = "frozen"  # connections stay and new ones are taken, no byte passes
    SLOW = "slow"  # each piece is late
    HALF_OPEN = "half-open"  # connections of before are dead without a word, new ones work


@dataclass(eq=False)
class _Pair:
    """One connection, its other half to the server, and whether it is dead without a word."""

    client: socket.socket
    server: socket.socket
    is_dead: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def close(self, *, is_reset: bool) -> None:
        """End both halves."""
        with self.lock:
            for sock in (self.client, self.server):
                if is_reset:
                    with contextlib.suppress(OSError):
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
                sock.close()


class Link:
    """Listens on a port and passes bytes to the server behind it.

    Attributes:
        port: Where it listens, for its whole life.
    """

    def __init__(self, port: int) -> None:
        self._behind = port
        self._listener = self._listen(0)
        self.port: int = self._listener.getsockname()[1]
        self._state, self._pairs = State.UP, set[_Pair]()
        self._is_over = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @staticmethod
    def _listen(port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port), backlog=256)
        listener.settimeout(0.05)
        return listener

    def set(self, state: State) -> None:
        """Break the line, or mend it."""
        was, self._state = self._state, state
        refuses = (State.STOPPED, State.KILLED)
        if state in refuses:
            self._listener.close()
            for pair in list(self._pairs):
                pair.close(is_reset=state is State.KILLED)
        elif was in refuses:
            self._listener = self._listen(self.port)
        if state is State.HALF_OPEN:
            for pair in list(self._pairs):
                pair.is_dead = True

    def close(self) -> None:
        """End all."""
        self._is_over = True
        self._listener.close()
        self._thread.join(5)
        for pair in list(self._pairs):
            pair.close(is_reset=True)

    def _run(self) -> None:
        while not self._is_over:
            try:
                client, _ = self._listener.accept()
            except OSError:  # nothing came, or it does not listen now
                time.sleep(0.01)
                continue
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        self._wait_while_frozen()
        try:
            server = socket.create_connection(("127.0.0.1", self._behind), 5)
        except OSError:
            client.close()
            return
        pair = _Pair(client, server)
        self._pairs.add(pair)
        try:
            self._pump(pair)
        except OSError:
            pass  # one half has ended
        finally:
            self._pairs.discard(pair)
            pair.close(is_reset=False)

    def _wait_while_frozen(self) -> None:
        while self._state is State.FROZEN and not self._is_over:
            time.sleep(0.02)

    def _pump(self, pair: _Pair) -> None:
        for sock in (pair.client, pair.server):
            sock.settimeout(10)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with selectors.DefaultSelector() as selector:
            selector.register(pair.client, selectors.EVENT_READ, pair.server)
            selector.register(pair.server, selectors.EVENT_READ, pair.client)
            while not self._is_over:
                for key, _ in selector.select(0.05):
                    self._wait_while_frozen()
                    data = key.fileobj.recv(65536)  # type: ignore[union-attr]
                    if not data and not pair.is_dead:
                        return
                    if not data:
                        selector.unregister(key.fileobj)
                    if self._state is State.SLOW:
                        time.sleep(SLOW_S)
                    if not pair.is_dead:
                        key.data.sendall(data)


@contextmanager
def linked(port: int) -> Iterator[Link]:
    """A line to a port of this machine, for the length of a `with`."""
    link = Link(port)
    try:
        yield link
    finally:
        link.close()
