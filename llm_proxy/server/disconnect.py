"""Notice within a millisecond that a client has gone, for all connections of a worker with one epoll.

EPOLLRDHUP tells of FIN, RST and half-close alike, also while pipelined bytes wait unread; a read watcher would not. The
one descriptor is watched by gevent's hub, so that waiting costs nothing. A client that only closed its sending side
counts as gone. Where the system has no EPOLLRDHUP nothing is noticed: exchanges run to their end.
"""

import contextlib
import select
from collections.abc import Callable
from typing import Any

import gevent
from gevent import monkey


class DisconnectWatch:
    """One a worker, made after the fork."""

    def __init__(self) -> None:
        self.clients: dict[int, WatchedClient] = {}
        self.epoll: Any = None
        self._watcher: Any = None
        with contextlib.suppress(AttributeError):  # no Linux
            self.epoll = monkey.get_original("select", "epoll")()  # patching removes select.epoll
            self._watcher = gevent.get_hub().loop.io(self.epoll.fileno(), 1)
            self._watcher.start(self._fire)

    def _fire(self) -> None:
        for descriptor, _ in self.epoll.poll(0):
            if (client := self.clients.get(descriptor)) is not None:
                client.note_gone()


class WatchedClient:
    """The client at the other end of one connection: `environ["llm_proxy.client"]`.

    Good for the running exchange only: the server unwatches when that ends. The connection is put under watch by the
    first `on_gone` and stays there until it closes; in between it costs nothing.
    """

    def __init__(self, watch: DisconnectWatch, descriptor: int) -> None:
        self._watch, self._descriptor = watch, descriptor
        self._callback: Callable[[], None] | None = None
        self._is_armed = False
        self.is_gone = False

    def on_gone(self, callback: Callable[[], None]) -> None:
        """Have `callback` run, once, in the hub when the client goes: it must neither wait nor raise.

        Also when it has gone before. Arm it when the request's body has been read: until then reading tells.
        """
        self._callback = callback
        if self.is_gone:
            gevent.get_hub().loop.run_callback(self._call)
        elif not self._is_armed and self._watch.epoll is not None:
            self._is_armed = True
            self._watch.clients[self._descriptor] = self
            self._watch.epoll.register(self._descriptor, _EVENTS)

    def unwatch(self) -> None:
        """Forget the callback."""
        self._callback = None

    def note_gone(self) -> None:
        """Note that the client has gone."""
        self.is_gone = True
        self._call()

    def _call(self) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()

    def close(self) -> None:
        """Before the connection's descriptor is closed: it may be given to another connection at once."""
        self._callback = None
        if self._is_armed:
            self._is_armed = False
            self._watch.clients.pop(self._descriptor, None)
            with contextlib.suppress(OSError):  # closed already, and then the kernel has forgotten it
                self._watch.epoll.unregister(self._descriptor)


_EVENTS = getattr(select, "EPOLLRDHUP", 0x2000) | getattr(select, "EPOLLONESHOT", 1 << 30)
