"""A response onto the wire, with the plan's faults at the exact byte."""

import zlib
from collections.abc import Iterable, Iterator
from email.utils import formatdate
from http import HTTPStatus

from llm_proxy_simulator.plan import Plan
from llm_proxy_simulator.responses import SimulatedResponse
from llm_proxy_simulator.wire import Request, Wire
from llm_proxy_simulator.witness import Exchange

_GARBAGE = b"\x16\x03\x01 this is not HTTP\r\n\r\n"


class Fault(Exception):
    """The plan ended the exchange; the connection is closed, with RST when `is_reset`."""

    def __init__(self, *, is_reset: bool = False) -> None:
        super().__init__()
        self.is_reset = is_reset


class Sender:
    """Sends one response. `interval_s` lies between a stream's events."""

    def __init__(self, wire: Wire, request: Request, plan: Plan, exchange: Exchange, interval_s: float) -> None:
        self._wire, self._request, self._plan, self._exchange = wire, request, plan, exchange
        self._interval_s = interval_s if plan.interval_s is None else plan.interval_s
        self.is_last = False  # whether the response ends with the connection

    def send(self, response: SimulatedResponse) -> None:
        """Send head and body. Raises Fault where the plan breaks off, OSError when the client is gone."""
        plan = self._plan
        self._wire.pause(plan.delay_s)
        for status in plan.interim:
            self._wire.send(f"HTTP/1.1 {status} {_reason(status)}\r\n\r\n".encode())
        if plan.silence == "head":
            self._wait()
        if plan.garbage:
            self._wire.send(_GARBAGE)
            raise Fault(is_reset=plan.reset)
        if plan.cut == "head":
            raise Fault(is_reset=plan.reset)
        body, length = self._coded(response)
        has_body = self._request.method != "HEAD" and response.status >= 200 and response.status not in (204, 304)
        framing = self._framing(length)
        self.is_last = framing == "close"
        head = self._head(response, length, framing)
        self._exchange.status = response.status
        if plan.cut == "mid-head":
            self._wire.send(head[: len(head) // 2])
            raise Fault(is_reset=plan.reset)
        self._wire.send(head)
        if has_body:
            self._body(body, framing, is_stream=response.is_stream)

    def _coded(self, response: SimulatedResponse) -> tuple[Iterable[bytes], int | None]:
        if not self._plan.gzip:
            return response.body, response.length
        if response.is_stream:
            return _gzip(response.body), None
        data = b"".join(_gzip(response.body))
        return [data], len(data)

    def _framing(self, length: int | None) -> str:
        framing = self._plan.framing or ("length" if length is not None else "chunked")
        if framing == "length" and length is None and self._plan.length is None:
            framing = "chunked"
        if framing == "chunked" and "1.0" in (self._request.version[5:], self._plan.version):
            framing = "close"
        return framing

    def _head(self, response: SimulatedResponse, length: int | None, framing: str) -> bytes:
        plan = self._plan
        fields = [("Date", formatdate(usegmt=True)), ("Server", "simulated-provider")]
        fields += [("Content-Type", plan.content_type or response.content_type)]
        fields += [("x-request-id", f"req_sim{self._request.number:08d}"), ("openai-version", "2020-10-01")]
        if plan.gzip:
            fields.append(("Content-Encoding", "gzip"))
        if plan.redirect is not None:
            fields.append(("Location", plan.redirect))
        if framing == "length" and response.status not in (204, 304):
            fields.append(("Content-Length", str(length if plan.length is None else plan.length)))
        if framing == "chunked" and response.status not in (204, 304):
            fields.append(("Transfer-Encoding", "chunked"))
        if framing == "close" or plan.close or self._request.wants_close:
            fields.append(("Connection", "close"))
        lines = [f"HTTP/{plan.version} {response.status} {_reason(response.status)}"]
        lines += [f"{name}: {value}" for name, value in [*fields, *response.fields, *plan.fields]]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def _body(self, pieces: Iterable[bytes], framing: str, *, is_stream: bool) -> None:
        if is_stream and self._interval_s > 0:
            pieces = self._paced(pieces)
        if self._plan.drip_s > 0:
            pieces = self._dripped(pieces)
        if self._plan.cut == "body" or self._plan.silence == "body":
            pieces = self._stopped(pieces)
        for piece in pieces:
            if piece:
                self._wire.send(b"%x\r\n%b\r\n" % (len(piece), piece) if framing == "chunked" else piece)
                self._exchange.sent_bytes += len(piece)
        if framing == "chunked":
            trailers = "".join(f"{name}: {value}\r\n" for name, value in self._plan.trailers)
            self._wire.send(b"0\r\n" + trailers.encode("latin-1") + b"\r\n")

    def _paced(self, events: Iterable[bytes]) -> Iterator[bytes]:
        for number, event in enumerate(events):
            if number:
                self._wire.pause(self._interval_s)
            yield event

    def _dripped(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            for byte in piece:
                yield bytes((byte,))
                self._wire.pause(self._plan.drip_s)

    def _stopped(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        left = self._plan.after
        for piece in pieces:
            if left <= len(piece):
                yield piece[:left]
                break
            left -= len(piece)
            yield piece
        if self._plan.silence == "body":
            self._wait()
        raise Fault(is_reset=self._plan.reset)

    def _wait(self) -> None:
        """Say nothing until the peer closes."""
        self._wire.wait_for_end()
        raise ConnectionResetError


def _gzip(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """gzip, flushed after each piece so that a stream stays one."""
    packer = zlib.compressobj(wbits=31)
    for piece in pieces:
        yield packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH)
    yield packer.flush()


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Simulated"
