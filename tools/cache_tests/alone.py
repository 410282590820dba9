"""The cache component by itself as a WSGI application, in front of the origin that ORIGIN names (`http://host:port`).

It is what `bin/cache-tests` judges: no token, no project, no provider file, so that a request without Authorization is
one. Only RFC 9111 decides; the stored Date is sent, which the proxy replaces.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

from llm_proxy.cache.engine import SAFE_METHODS, ResponseCache
from llm_proxy.cache.invalidation import WriteTimes
from llm_proxy.cache.lookup import CacheLookup, StoredResponse
from llm_proxy.cache.memory import MemoryStore
from llm_proxy.cache.policy import Rules, Verdict
from llm_proxy.cache.purges import Purges, PurgesInMemory
from llm_proxy.cache.singleflight import SingleFlight
from llm_proxy.errors import UpstreamError
from llm_proxy.forwarding.fields import HOP_BY_HOP, connection_names
from llm_proxy.forwarding.request import ProxyRequest, from_environ
from llm_proxy.runtime import shared_dir
from llm_proxy.transport import Options, Timeouts, Upstream, UpstreamRequest, UpstreamResponse

StartResponse = Callable[[str, list[tuple[str, str]]], Any]
Fields = list[tuple[str, str]]

PROJECT = "alone"
NO_CONTENT = frozenset((204, 304))


class Alone:
    """The application.

    Args:
        origin: Where requests go.
    """

    def __init__(self, origin: str) -> None:
        self._origin, self._host = origin, urlsplit(origin).netloc
        self._upstream = Upstream(Options())
        self._timeouts = Timeouts(5.0, 30.0, 30.0, math.inf)
        self._made: ResponseCache | None = None

    @property
    def _cache(self) -> ResponseCache:
        """Made in the worker, which the first request is in."""
        if self._made is None:
            where = shared_dir.shared()
            self._made = ResponseCache(
                MemoryStore(where, most_bytes=64 << 20),
                writes=WriteTimes(where),
                purges=Purges(PurgesInMemory()),
                singleflight=SingleFlight(where),
                rules=Rules(keeps_date=True),
            )
        return self._made

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """From the store, or from the origin and into it."""
        request = from_environ(environ)
        inquiry = self._inquiry(request)
        if inquiry is not None:
            entry, verdict = inquiry.decide()
            if entry is not None and verdict is not Verdict.VALIDATE:
                return _send(start_response, inquiry.serve(entry), inquiry, "hit")
            if inquiry.only_if_cached:
                start_response("504 Gateway Timeout", [("Content-Length", "0")])
                return ()
        try:
            response = self._ask(request, inquiry)
        except UpstreamError as error:
            entry = inquiry.failed() if inquiry is not None else None
            if inquiry is None or entry is None:
                start_response(f"{error.status} Bad Gateway", [("Content-Length", "0")])
                return ()
            return _send(start_response, inquiry.serve(entry), inquiry, "hit")
        return self._pass_on(request, inquiry, response, start_response)

    def _inquiry(self, request: ProxyRequest) -> CacheLookup | None:
        asked = self._cache.request_directives(request.method, request.fields, request.values, request.content_length)
        if asked is None or request.method == "POST":
            return None
        return CacheLookup(
            self._cache,
            asked,
            project=PROJECT,
            method=request.method,
            path=request.path,
            query=request.query,
            fields=request.fields,
            values=request.values,
            is_authorized="AUTHORIZATION" in request.values,
        )

    def _ask(self, request: ProxyRequest, inquiry: CacheLookup | None) -> UpstreamResponse:
        named = HOP_BY_HOP | {"HOST"} | connection_names(request.values.get("CONNECTION", ""))
        fields = [field for field in request.fields if field[0] not in named]
        fields += inquiry.conditions() if inquiry is not None else []
        sent = [(b"Host", self._host.encode())]
        sent += [(name.title().encode("latin-1"), value.encode("latin-1")) for name, value in fields]
        body = _whole(request)
        if request.is_chunked:
            sent.append((b"Content-Length", str(len(body)).encode()))
        forward = UpstreamRequest(request.method, request.target.encode("latin-1"), sent, self._origin, body or None)
        return self._upstream.send(forward, timeouts=self._timeouts)

    def _pass_on(
        self,
        request: ProxyRequest,
        inquiry: CacheLookup | None,
        response: UpstreamResponse,
        start_response: StartResponse,
    ) -> Iterable[bytes]:
        fields = _end_to_end(response.fields)
        reason = response.reason.decode("latin-1")
        recorder = None
        word = "bypass"
        if inquiry is not None:
            # What it was asked at is when it was answered, for an origin that is next door.
            reaction = inquiry.responded(response.status, reason, fields, requested_at=self._cache.clock())
            if reaction.entry is not None:
                response.close()
                return _send(start_response, inquiry.serve(reaction.entry), inquiry, "revalidated")
            recorder, word = reaction.recorder, "miss" if reaction.recorder is None else "stored"
        elif request.method not in SAFE_METHODS and 200 <= response.status < 400:
            self._cache.invalidate(PROJECT, request.path, fields)
        start_response(f"{response.status} {reason}", [*fields, ("Cache-Status", f"llm-proxy; {word}")])
        has_content = request.method != "HEAD" and response.status not in NO_CONTENT
        return _Body(response, recorder, has_content=has_content)


class _Body:
    """The origin's body on its way, and into the store when it was whole."""

    def __init__(self, response: UpstreamResponse, recorder: Any, *, has_content: bool) -> None:
        self._response, self._capture, self._is_whole = response, recorder, not has_content

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._response.chunks():
            if self._capture is not None:
                self._capture(piece)
            yield piece
        self._is_whole = True
        self._finish()

    def _finish(self) -> None:
        recorder, self._capture = self._capture, None
        store = recorder.finish(is_whole=self._is_whole) if recorder is not None else None
        if store is not None:
            store()

    def close(self) -> None:
        """Close, also where the body is never iterated."""
        self._response.close()
        self._finish()


def _whole(request: ProxyRequest) -> bytes:
    source = request.body
    return b"" if source is None else b"".join(iter(lambda: source.read1(65536), b""))


def _end_to_end(fields: list[tuple[bytes, bytes]]) -> Fields:
    decoded = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields]
    named = set(HOP_BY_HOP)
    for name, value in decoded:
        if name.upper() == "CONNECTION":
            named |= connection_names(value)
    return [field for field in decoded if field[0].upper() not in named]


def _send(start_response: StartResponse, served: StoredResponse, inquiry: CacheLookup, word: str) -> Iterable[bytes]:
    word = "conditional-hit" if served.is_conditional else word
    start_response(f"{served.status} {served.reason}", [*served.fields, ("Cache-Status", f"llm-proxy; {word}")])
    return (served.content,) if served.content else ()


app = Alone(os.environ["ORIGIN"])
