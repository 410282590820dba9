"""The requests adapter: one request out, the head of one response in, on its own connection."""

from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any

from gevent import get_hub
from requests import PreparedRequest
from requests.adapters import BaseAdapter
from requests.exceptions import InvalidURL

from llm_proxy.transport.connect import LookUp, look_up
from llm_proxy.transport.exchange import TIMEOUT, Exchange, Timeouts, end_watcher
from llm_proxy.transport.head import Head, read_head
from llm_proxy.transport.origin import Origin
from llm_proxy.transport.request import UpstreamRequest
from llm_proxy.transport.response import UpstreamResponse
from llm_proxy.transport.upload import ONE_PIECE_BYTES, Upload, send_whole

_REPEATABLE = ("GET", "HEAD")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Bounds of the pool, which count idle connections, and what tests replace.

    Attributes:
        max_idle: Idle connections of all origins together; what is more is closed at the next sweep.
        max_idle_per_origin: The same of one; as many as were in use at once are kept longer.
        idle_s: Seconds after which an idle connection is closed.
        spare_s: A connection that nothing needed for so long is more than enough; kept up to twice that.
        sweep_s: How often late exchanges are looked for; limits may be as late as this.
        look_up: `getaddrinfo(host, port)`.
    """

    max_idle: int = 100
    max_idle_per_origin: int = 20
    idle_s: float = 90.0
    spare_s: float = 10.0
    sweep_s: float = 0.5
    look_up: LookUp = look_up


class Adapter(BaseAdapter):
    """Sends `UpstreamRequest`s; belongs to the hub (so the thread) that first used it.

    No redirects, cookies, `.netrc` or its own fields; certificates are always verified; proxies are the
    environment's as it was when an origin was first used.
    """

    def __init__(self, options: Options) -> None:
        super().__init__()
        self._options = options
        self._peak = self._peak_before = 0  # exchanges at once, in this span of `spare_s` and the one before
        self._counted_at = 0.0
        self._origins: dict[str, Origin] = {}
        self._live: set[Exchange] = set()
        self._sweeper: Any = None
        self._is_closed = False

    # -- requests ---------------------------------------------------------------------------------------------------

    def prepare(self, origin: str) -> Origin:
        """Return the pool and all that is read once for an origin.

        Raises:
            InvalidURL, ProxyError, SSLError: See `Origin`.
        """
        return self._origins.get(origin) or self._new_origin(origin)

    def begin(self, origin: str, timeouts: Timeouts) -> Exchange:
        """Return an exchange that nothing has been done for yet: hand it to what may cut it, then `send` with it.

        Raises:
            InvalidURL, ProxyError, SSLError: See `Origin`.
        """
        found = self.prepare(origin)
        if self._sweeper is None:
            self._start_sweeper()
        exchange = Exchange(self._live, found, timeouts, monotonic())
        if len(self._live) > self._peak:
            self._peak = len(self._live)
        return exchange

    def send(
        self,
        request: PreparedRequest,
        stream: bool = True,
        timeout: object = None,
        verify: bool | str = True,
        cert: object = None,
        proxies: Mapping[str, str] | None = None,
        *,
        exchange: Exchange | None = None,
    ) -> UpstreamResponse:
        """Send it and wait for the head of the response; the library's own arguments are not heeded.

        Raises:
            RequestException: ConnectTimeout, ReadTimeout, SSLError, ProxyError, ConnectionError, `Broken`, `Aborted`,
                or InvalidHeader and InvalidURL for a request that was refused before connecting.
            Exception: Whatever the body's reader raised, the upstream's connection closed.
        """
        if not isinstance(request, UpstreamRequest):
            raise TypeError("this adapter sends UpstreamRequest objects")
        x = exchange if exchange is not None else self.begin(request.origin, Timeouts())
        try:
            origin = self.prepare(request.origin)
            data = request.head(origin.prefix, origin.extra)
            x.check()
            head, rest = self._exchange(x, request, data, origin)
            response = UpstreamResponse(request, x, head, rest)
        except Exception as exc:
            x.release(pool=False)
            failure = x.failure(exc)
            if failure is exc:
                raise
            raise failure from exc
        except BaseException:  # the greenlet is being killed
            x.release(pool=False)
            raise
        return response

    def _exchange(self, x: Exchange, request: UpstreamRequest, data: bytes, origin: Origin) -> tuple[Head, bytes]:
        """On an idle connection if there is one, else, or once more for a GET or HEAD that met its end, on a new one.

        A streamed body cannot be sent twice and always has a new one.
        """
        if not request.is_streamed and (sock := origin.take()) is not None:
            x.sock = sock
            try:
                return self._once(x, request, data)
            except OSError:
                if request.method not in _REPEATABLE or x.has_response or x.cut_reason is not None:
                    raise
            x.renew()
        origin.open(x)
        x.has_response = False  # a proxy's response to CONNECT is none
        return self._once(x, request, data)

    def _once(self, x: Exchange, request: UpstreamRequest, data: bytes) -> tuple[Head, bytes]:
        early = b""
        is_whole = True
        if request.is_streamed or len(request.body or b"") > ONE_PIECE_BYTES:  # type: ignore[arg-type]
            upload = Upload(x, request)
            error = upload.run(data)
            early = upload.early
            x.has_response = bool(early)
            is_whole = not upload.is_stopped
        else:
            error = send_whole(x, data, request.framed())
        x.phase = "head"
        deadline = monotonic() + x.timeouts.first_byte_s
        x.deadline = deadline if deadline < x.end else x.end
        try:
            head, rest = read_head(x.recv, early, request.method, is_upgrade=request.is_upgrade)
        except OSError as exc:
            raise exc from error
        x.phase = "body"
        if error is not None or not is_whole:
            head.keeps = False
        return head, rest

    # -- the whole --------------------------------------------------------------------------------------------------

    @property
    def idle_count(self) -> int:
        """Connections in the pool."""
        return sum(len(origin.idle) for origin in self._origins.values())

    @property
    def live_count(self) -> int:
        """Exchanges between `begin` and the end of their response."""
        return len(self._live)

    @property
    def open_count(self) -> int:
        """Connections that are open, idle ones included."""
        return self.idle_count + sum(x.sock is not None and x.cut_reason is None for x in self._live)

    def close(self) -> None:
        """Cut what is running and close the pool; sending afterwards works, but nothing is kept."""
        self._is_closed = True
        for x in list(self._live):
            x.cut("closed")
        for origin in self._origins.values():
            origin.close()
        self._stop_sweeper()

    def _new_origin(self, url: str) -> Origin:
        try:
            wanted = self._options
            origin = Origin(url, max_idle=wanted.max_idle_per_origin, idle_s=wanted.idle_s, look_up=wanted.look_up)
        except ValueError as exc:
            raise InvalidURL(str(exc)) from None
        origin.is_closed = self._is_closed
        self._origins[url] = origin
        return origin

    def _drop_one(self) -> None:
        """Of all idle connections the one that has been so longest."""
        candidates = [origin for origin in self._origins.values() if origin.idle]
        min(candidates, key=lambda origin: origin.idle[0][1]).drop_oldest()

    # -- time -------------------------------------------------------------------------------------------------------

    def _start_sweeper(self) -> None:
        """Start a timer of the hub's instead of one a read, which would cost half an event more (ADR 0011)."""
        self._sweeper = get_hub().loop.timer(self._options.sweep_s, self._options.sweep_s, ref=False)
        self._sweeper.start(self._sweep)

    def _stop_sweeper(self) -> None:
        sweeper, self._sweeper = self._sweeper, None
        end_watcher(sweeper)

    def _wanted(self, now: float) -> int:
        """Return how many idle connections it takes to be as busy at once as of late."""
        if now - self._counted_at >= self._options.spare_s:
            self._peak_before, self._peak, self._counted_at = self._peak, len(self._live), now
        return max(self._peak, self._peak_before) - len(self._live)

    def _sweep(self) -> None:
        """In the hub: cut the late ones; `cut` neither waits nor raises."""
        now = monotonic()
        for x in [x for x in self._live if x.deadline <= now]:
            x.cut(TIMEOUT)
        wanted = self._wanted(now)
        for origin in self._origins.values():
            origin.prune(now, wanted)
        while self.idle_count > self._options.max_idle:
            self._drop_one()
        if not self._live and not self.idle_count:
            self._stop_sweeper()
