"""From a host name to a TCP connection: remembered addresses, tried one after another."""

import ipaddress
import math
from collections.abc import Callable
from itertools import chain, zip_longest
from time import monotonic
from typing import Any

import gevent
from gevent import socket as gsocket
from gevent.event import AsyncResult

from llm_proxy.transport.exchange import Exchange

ADDRESSES_KEPT_S = 10.0
SHARE_S = 2.0  # most that an address gets while there are others: a black-holed IPv6 must not eat the limit
Address = tuple[int, Any]  # family, sockaddr
LookUp = Callable[[str, int], list[Any]]


def look_up(host: str, port: int) -> list[Any]:
    """`getaddrinfo` in gevent's threads."""
    found: list[Any] = gsocket.getaddrinfo(host, port, 0, gsocket.SOCK_STREAM)
    return found


class AddressBook:
    """The addresses of one host: looked up once for all that wait, kept for 10 s, the one that worked in front."""

    def __init__(self, host: str, port: int, look_up: LookUp = look_up) -> None:
        self._host, self._port, self._look_up = host, port, look_up
        self._known: list[Address] = []
        self._until = -math.inf
        self._running: Any = None
        self._waiting: set[Any] = set()
        try:
            version = ipaddress.ip_address(host).version
        except ValueError:
            return
        family = gsocket.AF_INET if version == 4 else gsocket.AF_INET6
        self._known = [(family, (host, port) if version == 4 else (host, port, 0, 0))]
        self._until = math.inf

    def get(self, x: Exchange) -> list[Address]:
        """Return the addresses in the order to try; waits for a look-up if need be, which a cut ends at once."""
        if monotonic() < self._until:
            return list(self._known)
        box = x.box = AsyncResult()
        self._waiting.add(box)
        if self._running is None:
            self._running = gevent.spawn(self._run)
        try:
            x.check()
            found: list[Address] = box.get()
        finally:
            x.box = None
            self._waiting.discard(box)
        return list(found)

    def worked(self, address: Address) -> None:
        """Try this one first from now on."""
        if address in self._known:
            self._known.remove(address)
            self._known.insert(0, address)

    def _run(self) -> None:
        """Outside of the requests: a look-up cannot be stopped, and its result serves all exchanges that wait."""
        error: BaseException | None = None
        try:
            self._known = _alternate(self._look_up(self._host, self._port))
            self._until = monotonic() + ADDRESSES_KEPT_S
        except Exception as exc:  # gaierror, UnicodeError of a name that cannot be encoded
            error = exc if isinstance(exc, OSError) else OSError(str(exc))
        self._running = None
        for box in self._waiting:
            if error is None:
                box.set(self._known)
            else:
                box.set_exception(error)


def _alternate(found: list[Any]) -> list[Address]:
    """Families by turns (RFC 8305 §4), beginning with the resolver's first choice."""
    groups: dict[int, list[Address]] = {}
    for family, _, _, _, sockaddr in found:
        group = groups.setdefault(int(family), [])
        if (int(family), sockaddr) not in group:
            group.append((int(family), sockaddr))
    return [address for address in chain.from_iterable(zip_longest(*groups.values())) if address is not None]


def connect(x: Exchange, book: AddressBook) -> None:
    """Put a connected socket into the exchange.

    Raises:
        OSError: No address took the connection; the last one's error.
    """
    addresses = book.get(x)
    failure = OSError("the host has no address")
    for index, address in enumerate(addresses):
        x.check()
        left = len(addresses) - index
        sock = x.sock = gsocket.socket(address[0], gsocket.SOCK_STREAM)
        try:
            sock.setsockopt(gsocket.IPPROTO_TCP, gsocket.TCP_NODELAY, 1)
            sock.setsockopt(gsocket.SOL_SOCKET, gsocket.SO_KEEPALIVE, 1)
            if left > 1:
                sock.settimeout(max(0.01, min(SHARE_S, (x.deadline - monotonic()) / left)))
            sock.connect(address[1])
            sock.settimeout(None)
        except OSError as exc:
            sock.close()
            x.sock = None
            failure = exc
            continue
        book.worked(address)
        return
    x.check()
    raise failure
