"""http.client on gevent's sockets, so that one process holds many exchanges without patching the standard library."""

import http.client
from typing import Any
from urllib.parse import SplitResult

import gevent.socket
import gevent.ssl


class Connection(http.client.HTTPConnection):
    """A connection to the place of a URL; `timeout` bounds connecting and each silence."""

    def __init__(self, place: SplitResult, *, timeout_s: float, is_insecure: bool = False) -> None:
        is_tls = place.scheme == "https"
        super().__init__(place.hostname or "", place.port or (443 if is_tls else 80), timeout=timeout_s)
        self._context: Any = None
        if is_tls:
            self._context = gevent.ssl.create_default_context()
            if is_insecure:
                self._context.check_hostname = False
                self._context.verify_mode = gevent.ssl.CERT_NONE

    def connect(self) -> None:
        """Connect, with TLS where the URL asks for it."""
        sock = gevent.socket.create_connection((self.host, self.port), self.timeout)
        sock.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)
        self.sock = sock if self._context is None else self._context.wrap_socket(sock, server_hostname=self.host)
