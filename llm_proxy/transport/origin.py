"""One upstream origin: its idle connections, addresses, TLS context and proxy."""

from collections import deque
from select import POLLIN
from time import monotonic
from typing import Any

from gevent import monkey
from requests.exceptions import ProxyError

from llm_proxy.transport.connect import AddressBook, LookUp, connect, look_up
from llm_proxy.transport.exchange import Exchange
from llm_proxy.transport.proxies import proxy_for, split_origin
from llm_proxy.transport.tls import Tls
from llm_proxy.transport.tunnel import open_tunnel

_poll: Any = monkey.get_original("select", "poll")  # gevent's own would wait in the loop


def is_quiet(sock: Any) -> bool:
    """Return False when an idle connection has ended or bytes wait on it: the next response would begin with them.

    Asks the system: over TLS too, where any record counts. Half the price of a `recv` that finds nothing.
    """
    try:
        poll = _poll()
        poll.register(sock.fileno(), POLLIN)
        return not poll.poll(0)
    except (OSError, ValueError):  # closed
        return False


class Origin:
    """Connections to one `scheme://host:port`. The idle ones are bounded, the active ones are the application's.

    Attributes:
        place: Host and port that are connected to, for messages.
        idle: Socket and the time since when it is idle; the last one in is the first one out.
        prefix: In front of the target, and `extra` behind the fields, of each request through a proxy without tunnel.
    """

    def __init__(self, url: str, *, max_idle: int, idle_s: float, look_up: LookUp = look_up) -> None:
        """Read the environment's proxies and CA bundle, once.

        Raises:
            ValueError: `url` is no origin.
            ProxyError: The environment names a kind of proxy that is not supported.
            SSLError: The environment's CA bundle cannot be read.
        """
        self._scheme, self._host, self._port = split_origin(url)
        try:
            self._proxy = proxy_for(url)
        except ValueError as exc:
            raise ProxyError(str(exc)) from None
        self.place = f"{self._host}:{self._port}"
        if self._proxy is not None:
            self.place += f" through the proxy {self._proxy.host}:{self._proxy.port}"
        self._max_idle, self._idle_s = max_idle, idle_s
        self._tls = Tls(self._host) if self._scheme == "https" else None
        proxy = self._proxy
        self._book = AddressBook(*((proxy.host, proxy.port) if proxy else (self._host, self._port)), look_up)
        is_forwarded = proxy is not None and self._tls is None
        self.prefix = url.encode("ascii") if is_forwarded else b""
        self.extra = proxy.authorization if proxy is not None and is_forwarded else b""
        self.idle: deque[tuple[Any, float]] = deque()
        self.is_closed = False

    def take(self) -> Any:
        """Return an idle connection that is fit for use, or None."""
        idle = self.idle
        while idle:
            sock, since = idle.pop()
            if is_quiet(sock) and monotonic() - since < self._idle_s:
                return sock
            sock.close()
        return None

    def remember(self, sock: Any) -> None:
        """Learn from a connection whose response is complete, whether it is kept or not."""
        if self._tls is not None and sock is not None:
            self._tls.remember(sock)

    def put(self, sock: Any) -> None:
        """Keep a connection whose response has been read to its clean end."""
        if self.is_closed:
            sock.close()
            return
        self.idle.append((sock, monotonic()))

    def drop_oldest(self) -> None:
        """Close the connection that has been idle longest."""
        self.idle.popleft()[0].close()

    def prune(self, now: float, wanted: int = 0) -> None:
        """Close what has been idle for too long, and what is more than shall be kept.

        Once a sweep and not at each `put`: many requests that come and go at once would otherwise close and open
        connections all the time, a TLS handshake each.

        Args:
            wanted: Idle connections that are kept in any case.
        """
        bound = max(self._max_idle, wanted)
        while self.idle and (len(self.idle) > bound or now - self.idle[0][1] >= self._idle_s):
            self.drop_oldest()

    def open(self, x: Exchange) -> None:
        """Put a fresh connection into the exchange: look-up, TCP, proxy, TLS, all under the connect limit."""
        x.deadline = min(monotonic() + x.timeouts.connect_s, x.end)
        connect(x, self._book)
        if self._tls is not None:
            if self._proxy is not None:
                open_tunnel(x, self._proxy, self._host, self._port)
            self._tls.wrap(x)
        x.check()

    def close(self) -> None:
        """Close the idle connections; those in use are closed when they come back."""
        self.is_closed = True
        while self.idle:
            self.drop_oldest()
