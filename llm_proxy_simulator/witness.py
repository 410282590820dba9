"""What was received and how each exchange ended: the witness."""

import json
import os
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from llm_proxy_simulator.wire import Request

_EXCHANGES_KEPT = 20_000


@dataclass(slots=True)
class Exchange:
    """One request on its way: what became of it, for the control resource."""

    number: int
    connection: int
    method: str
    target: str
    request_id: str | None
    began_at: float = field(default_factory=time.time)
    ended_at: float | None = None
    status: int | None = None
    sent_bytes: int = 0
    outcome: str = "running"  # then `whole`, `fault`, `client_gone`


class Witness:
    """A JSON line per request received, written when its body is in (or broke off); flushed at once."""

    def __init__(self, path: Path | None = None) -> None:
        self._file = None if path is None else os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.exchanges: deque[Exchange] = deque(maxlen=_EXCHANGES_KEPT)
        self.open_connections = 0
        self.connections = 0
        self.requests = 0
        self._ended = {"whole": 0, "fault": 0, "client_gone": 0}

    def received(self, request: Request, *, body_bytes: int, body_sha256: str, is_whole: bool) -> None:
        """Write the line."""
        if self._file is None:
            return
        line = {
            "number": request.number,
            "connection": request.connection,
            "at": time.time(),
            "method": request.method,
            "target": request.target,
            "version": request.version,
            "fields": request.fields,
            "authorization": request.value("authorization"),
            "is_chunked": request.is_chunked,
            "body_bytes": body_bytes,
            "body_sha256": body_sha256,
            "body_is_whole": is_whole,
        }
        os.write(self._file, json.dumps(line).encode() + b"\n")

    def began(self, request: Request) -> Exchange:
        """Count a request and follow it."""
        self.requests += 1
        exchange = Exchange(
            request.number, request.connection, request.method, request.target, request.value("x-request-id")
        )
        self.exchanges.append(exchange)
        return exchange

    def ended(self, exchange: Exchange, outcome: str) -> None:
        """Note an exchange's end; only the first counts."""
        if exchange.ended_at is None:
            exchange.ended_at, exchange.outcome = time.time(), outcome
            self._ended[outcome] += 1

    def state(self) -> dict[str, int]:
        """Return what the control resource shows."""
        return {
            "open_connections": self.open_connections,
            "connections": self.connections,
            "requests": self.requests,
            "running": self.requests - sum(self._ended.values()),
            **self._ended,
        }

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
