"""The package's face: the proxy's requests in, its responses and its errors out."""

from collections.abc import Callable
from typing import Any

from gevent import monkey
from requests.exceptions import RequestException

from llm_proxy.errors import UpstreamCut, UpstreamError
from llm_proxy.transport.adapter import Adapter, Options
from llm_proxy.transport.errors import cause_of, translate
from llm_proxy.transport.exchange import Exchange, Timeouts
from llm_proxy.transport.request import UpstreamRequest
from llm_proxy.transport.response import UpstreamResponse


class Upstream:
    """Sends requests to providers; the same object serves all origins.

    gevent's sockets belong to a thread's hub, so each thread has its own connections: one set in a gevent worker,
    one a thread under a threaded development server.
    """

    def __init__(self, options: Options | None = None) -> None:
        self._options = options or Options()
        # The unpatched class: greenlets are to share what threads must not.
        self._local: Any = monkey.get_original("_thread", "_local")()

    def send(
        self, forward: UpstreamRequest, *, timeouts: Timeouts, begun: Callable[[Exchange], object] | None = None
    ) -> UpstreamResponse:
        """Send it and wait for the head of the response.

        Args:
            begun: Gets the exchange before the first wait, so that it can be cut in every phase.

        Raises:
            UpstreamConnectError: Look-up, TCP, proxy or TLS failed.
            UpstreamTimeout: A limit passed; `phase` tells which.
            UpstreamBroken: The connection broke, or the response is no acceptable HTTP.
            UpstreamCut: `exchange.cut` was called.
            UpstreamRequestInvalid: The request cannot be written as one well-framed message; nothing was sent.
            ClientConnectionError: From the body's reader, let through; the upstream's connection is closed.
        """
        adapter = self._adapter()
        try:
            exchange = adapter.begin(forward.origin, timeouts)
        except RequestException as exc:
            raise _explained(translate(exc, "connect", is_sent=False), forward.origin, exc) from exc
        try:
            if begun is not None:
                begun(exchange)
            return adapter.send(forward, exchange=exchange)
        except BaseException as exc:
            exchange.release(pool=False)  # `begun` may raise, too
            if not isinstance(exc, RequestException) or exc is exchange.foreign:
                raise
            failure = translate(exc, exchange.phase, is_sent=exchange.is_sent)
            raise _explained(failure, exchange.pool.place, exc) from exc

    def prepare(self, origin: str) -> None:
        """Read the proxy and the certificates for an origin now; at its first request they would cost 20 ms.

        Raises:
            UpstreamError: As `send` would.
        """
        try:
            self._adapter().prepare(origin)
        except RequestException as exc:
            raise translate(exc, "connect", is_sent=False) from exc

    def close(self) -> None:
        """Cut what this thread has running and close its pool."""
        self._adapter().close()

    @property
    def open_count(self) -> int:
        """This thread's open connections, idle ones included."""
        return self._adapter().open_count

    @property
    def idle_count(self) -> int:
        """This thread's pooled connections."""
        return self._adapter().idle_count

    @property
    def live_count(self) -> int:
        """This thread's exchanges that are not over."""
        return self._adapter().live_count

    def _adapter(self) -> Adapter:
        try:
            adapter: Adapter = self._local.adapter
        except AttributeError:
            adapter = self._local.adapter = Adapter(self._options)
        return adapter


def _explained(failure: UpstreamError, place: str, exc: BaseException) -> UpstreamError:
    """Note for caller, log and event why a connection was not made (ADR 0245)."""
    if failure.phase == "connect" and not isinstance(failure, UpstreamCut):
        failure.cause = failure.description = f"connect to {place}: {cause_of(exc)}"
    return failure
