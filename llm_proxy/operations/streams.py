"""The exchanges that run now in all workers of this server, and the cut of one of them."""

import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import gevent

from llm_proxy.forwarding.exchange import CUT_BY_OPERATOR, Exchange, ExchangeRegistry
from llm_proxy.runtime.clock import rfc3339
from llm_proxy.runtime.peers import Peers
from llm_proxy.sanitize import printable

LIST, CUT = "streams", "cut"
MOST = 1000  # exchanges in a worker's reply, the oldest ones
_PATH_CHARACTERS = 500
_PAUSE_EVERY = 16


class Streams:
    """Running exchanges, seen from any worker.

    Args:
        registry: Those of this worker.
    """

    def __init__(self, registry: ExchangeRegistry) -> None:
        self._registry = registry
        self._peers: Peers | None = None

    def connect(self, peers: Peers) -> None:
        """Ask these workers as well."""
        self._peers = peers

    def list(self, within: frozenset[str] | None = None) -> "list[dict[str, Any]]":
        """Return all running exchanges that a caller may see, the oldest first.

        Args:
            within: Ids of the caller's projects; None: all, those without a known token as well.
        """
        found = list(self.own(None)) if self._peers is None else self._peers.ask(LIST)
        seen = [shown for shown in found if within is None or shown["project_id"] in within]
        return sorted(seen, key=lambda shown: str(shown["started_at"]))

    def cut(self, stream_id: str) -> bool:
        """End one; whether it still ran."""
        found = list(self.cut_own(stream_id)) if self._peers is None else self._peers.ask(CUT, stream_id)
        return bool(found)

    def own(self, argument: Any) -> Iterator[dict[str, Any]]:
        """Yield the exchanges of this worker."""
        live = sorted(self._registry.live, key=lambda exchange: exchange.request.received_at)
        for number, exchange in enumerate(live[:MOST]):
            if not exchange.is_settled:
                yield _shown(exchange)
            if number % _PAUSE_EVERY == _PAUSE_EVERY - 1:
                gevent.sleep(0)  # a model's name is read from the request's body

    def cut_own(self, stream_id: Any) -> Iterator[str]:
        """Cut an exchange of this worker; yield its id where there is one."""
        for exchange in list(self._registry.live):
            if _id(exchange) == stream_id and exchange.is_dispatched and not exchange.is_settled:
                exchange.cut(CUT_BY_OPERATOR)
                yield stream_id

    def handlers(self) -> Mapping[str, Any]:
        """Return what other workers may ask."""
        return {LIST: self.own, CUT: self.cut_own}


def _id(exchange: Exchange) -> str:
    """Return a name that is unique in the server: worker, microsecond of arrival, and place in memory."""
    at_us = int(exchange.request.received_at * 1e6)
    return f"{os.getpid()}-{at_us:x}-{id(exchange) & 0xFFFFFFFF:x}"


def _kind(exchange: Exchange) -> str:
    if exchange.kind == "turn":
        return "turn"
    if exchange.status == 101:
        return "websocket"
    return "stream" if exchange.is_stream else "request"


def _model(exchange: Exchange) -> str | None:
    model = None if exchange.usage is None else exchange.usage.model()
    return None if model is None else printable(model)


def _shown(exchange: Exchange) -> dict[str, Any]:
    token, request = exchange.token, exchange.request
    return {
        "id": _id(exchange),
        "kind": _kind(exchange),
        "token_id": None if token is None else token.id,
        "project_id": None if token is None else token.project_id,
        "model": _model(exchange),
        "method": request.method,
        "path": printable(request.path[:_PATH_CHARACTERS]),
        "status": exchange.status,
        "started_at": rfc3339(datetime.fromtimestamp(request.received_at, UTC)),
        "request_bytes": exchange.received_bytes,
        "response_bytes": exchange.relayed_bytes,
        "request_id": request.request_id,
        "client_ip": request.client_addr,
        "worker": os.getpid(),
    }
