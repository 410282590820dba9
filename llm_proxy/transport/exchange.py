"""What one request holds while it runs, and the one way to end it from outside."""

import errno
import math
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from gevent import get_hub, getcurrent
from requests.exceptions import ConnectionError, ConnectTimeout, ReadTimeout, RequestException, SSLError

from llm_proxy.transport.errors import Aborted, Broken, WasCut

TIMEOUT = "timeout"  # the reason that the sweeper cuts for
RECV_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Time limits of an exchange in seconds; `math.inf` is none. They may be up to one sweep (0.5 s) late."""

    connect_s: float = 10.0
    """Look-up, every address, proxy and TLS together."""
    first_byte_s: float = 600.0
    """From the end of the request to the end of the response's head."""
    idle_s: float = 300.0
    """Longest silence between two bytes, in both directions."""
    total_s: float = math.inf
    """The whole exchange, without the time in which the client was waited for."""


class Pool(Protocol):
    """The owner of the connections to one origin, as an exchange sees it.

    Attributes:
        place: Host and port that are connected to, for messages.
    """

    place: str

    def put(self, sock: Any) -> None:
        """Keep a connection whose response has been read to its clean end."""

    def remember(self, sock: Any) -> None:
        """Learn from a connection whose response is complete."""


class _Woken(BaseException):
    """Thrown into a greenlet that waits for something that has become pointless."""


class Exchange:
    """One request's hold on the upstream. Written by its own greenlet; `cut` may come from anywhere, at any time.

    Attributes:
        phase: `connect`, `send`, `head` or `body`.
        is_sent: False as long as the kernel has been given no byte of this request.
        has_response: A byte has come from the upstream on this connection.
        cut_reason: Reason of the cut; None when there was none.
        deadline: `time.monotonic()` at which the sweeper cuts; infinity while nothing of the upstream's is waited for.
        end: The same for the exchange as a whole; moved on by the time that the client took.
    """

    __slots__ = (
        "_waiter",
        "box",
        "cut_reason",
        "cut_reason",
        "deadline",
        "end",
        "foreign",
        "has_response",
        "is_sent",
        "live",
        "phase",
        "pool",
        "sock",
        "timeouts",
    )

    def __init__(self, live: "set[Exchange]", pool: Pool, timeouts: Timeouts, now: float) -> None:
        self.pool = pool
        self.timeouts = timeouts
        self.phase = "connect"
        self.is_sent = False
        self.has_response = False
        self.cut_reason: str | None = None
        self.sock: Any = None  # gevent's socket; the TLS object once wrapped
        self.box: Any = None  # AsyncResult while an address look-up is waited for
        self.foreign: BaseException | None = None  # raised by the body's reader: not translated here
        self._waiter: Any = None  # this greenlet, while it waits for something else
        self.end = now + timeouts.total_s
        self.deadline = self.end
        self.live: set[Exchange] | None = live  # None once over: the socket may have another owner by then
        live.add(self)

    def cut(self, reason: str) -> None:
        """End it now: the waiting greenlet is woken, the upstream sees the connection end. Never waits or raises.

        Does nothing after the end, or after another cut: the first reason counts.
        """
        if self.cut_reason is not None or self.live is None:
            return
        self.cut_reason = reason
        if self.box is not None:
            self.box.set_exception(OSError(errno.EBADF, reason))
        if self.sock is not None:
            self.sock.close()
        self.wake()

    def check(self) -> None:
        """Raise if it was cut while this greenlet did not wait."""
        if self.cut_reason is not None:
            raise WasCut(self.cut_reason)

    def release(self, *, pool: bool) -> None:
        """Let the connection go, into the pool or closed; the first call counts."""
        live = self.live
        if live is None:
            return
        live.discard(self)
        self.live = None  # before anything else: a late cut must not close a connection in another request's use
        sock, self.sock = self.sock, None
        if sock is not None:
            if pool and self.cut_reason is None:
                self.pool.put(sock)
            else:
                sock.close()

    def renew(self) -> None:
        """Drop the connection and stand before the connecting again (one re-send)."""
        sock, self.sock = self.sock, None
        if sock is not None:
            sock.close()
        self.phase = "connect"

    def recv(self) -> bytes:
        """Return what has arrived, at most 64 KiB.

        Raises:
            Broken: The upstream ended the connection.
        """
        data: bytes = self.sock.recv(RECV_BYTES)
        if not data:
            raise Broken("the upstream closed the connection early")
        self.has_response = True
        return data

    # -- waiting for something else than the upstream's socket ------------------------------------------------------

    def wait_interruptibly(self, wait: Callable[..., Any], *args: Any) -> Any:
        """`wait(*args)`; None when `wake` or a cut ended it. What it raises is kept in `foreign`."""
        self._waiter = getcurrent()
        try:
            return wait(*args)
        except _Woken:
            return None
        except BaseException as exc:
            self.foreign = exc
            raise
        finally:
            self._waiter = None

    def wake(self) -> None:
        """End a wait inside `wait_interruptibly`, soon; safe in the hub and in any greenlet."""
        if self._waiter is not None:
            get_hub().loop.run_callback(self._throw)

    def _throw(self) -> None:
        if self._waiter is not None:
            self._waiter.throw(_Woken)

    # -- what a failure is called -----------------------------------------------------------------------------------

    def failure(self, exc: Exception) -> Exception:
        """Return the requests exception for `exc`.

        By the reason of the cut alone if there was one, else by the phase.
        """
        if exc is self.foreign:
            return exc
        if self.cut_reason == TIMEOUT:
            return ConnectTimeout("connect limit") if self.phase == "connect" else ReadTimeout(f"limit ({self.phase})")
        if self.cut_reason is not None:
            return Aborted(self.cut_reason)
        if isinstance(exc, RequestException):
            return exc
        if not isinstance(exc, OSError):
            return exc
        if self.phase != "connect":
            return Broken(str(exc))
        return SSLError(str(exc)) if isinstance(exc, ssl.SSLError) else ConnectionError(str(exc))


def end_watcher(watcher: Any) -> None:
    """Stop and close a watcher of the event loop, if there is one."""
    if watcher is not None:
        watcher.stop()
        watcher.close()
