"""The simulator's server: connections, keep-alive, keys, and the control resource."""

import contextlib
import hashlib
import hmac
import itertools
import json
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gevent.server import StreamServer

from llm_proxy_simulator.kinds import KINDS, Kind, Responder
from llm_proxy_simulator.plan import Plan, PlanError, Rule, choose, read_rules
from llm_proxy_simulator.responses import SimulatedResponse, error_response, json_response, sized_response
from llm_proxy_simulator.sending import Fault, Sender
from llm_proxy_simulator.uploads import Upload
from llm_proxy_simulator.websocket import WebSocket, wants_websocket
from llm_proxy_simulator.wire import BrokenBody, BrokenRequest, Request, Wire
from llm_proxy_simulator.witness import Exchange, Witness

CONTROL = "/_simulator"
_BACKLOG = 4096
_SOCKETS_KEPT = 5000


@dataclass(slots=True)
class Simulator:
    """A server of one kind on one address.

    Args:
        address: Host and port; port 0 is given by the kernel.
        log: File for the witness lines.
        rules: First rule that takes a request decides how it departs from the usual.
        key: When set, it is demanded in the field that the kind reads: `Authorization: Bearer <key>` for OpenAI.
        interval_s: Time between a stream's events.
        tls: Paths of certificate and key.
        kind: Whose API it has, one of KINDS.
    """

    address: tuple[str, int]
    log: Path | None = None
    rules: list[Rule] = field(default_factory=list)
    key: str | None = None
    interval_s: float = 0.0
    tls: tuple[Path, Path] | None = None
    kind: str = "openai"
    witness: Witness = field(init=False)
    sockets: deque[WebSocket] = field(init=False, default_factory=lambda: deque(maxlen=_SOCKETS_KEPT))
    _server: Any = field(init=False)
    _kind: Kind = field(init=False)
    _responder: Responder = field(init=False)
    _numbers: Any = field(init=False, default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.witness = Witness(self.log)
        self._kind = KINDS[self.kind]
        self._responder = self._kind.responder()
        options = {} if self.tls is None else {"certfile": str(self.tls[0]), "keyfile": str(self.tls[1])}
        self._server = StreamServer(self.address, self._connection, backlog=_BACKLOG, **options)

    def start(self) -> str:
        """Listen; returns the URL. Raises OSError when the address is in use."""
        self._server.start()
        host, port = self._server.address[:2]
        host = f"[{host}]" if ":" in host else host
        return f"{'http' if self.tls is None else 'https'}://{host}:{port}"

    def stop(self) -> None:
        """Close the listener and all connections."""
        self._server.stop(timeout=0)
        self.witness.close()

    # -- one connection --------------------------------------------------------------------------------------------

    def _connection(self, sock: Any, _: Any) -> None:
        self.witness.open_connections += 1
        self.witness.connections += 1
        wire, number, is_reset = Wire(sock), self.witness.connections, False
        try:
            while (request := wire.read_request()) is not None:
                request.connection = number
                if not self._exchange(wire, request):
                    break
            wire.close_notify()
        except Fault as fault:
            is_reset = fault.is_reset
        except BrokenRequest:
            self._refuse(wire)
        except OSError:
            pass  # the client is gone; the exchange is noted
        finally:
            self.witness.open_connections -= 1
            wire.close(reset=is_reset)

    def _refuse(self, wire: Wire) -> None:
        with contextlib.suppress(OSError):  # the client may be gone
            wire.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    def _exchange(self, wire: Wire, request: Request) -> bool:
        """Serve one request; False when the connection is over."""
        if request.path.startswith(CONTROL):
            return self._control(wire, request)
        request.number = next(self._numbers)
        exchange = self.witness.began(request)
        outcome = "client_gone"
        upload = Upload(request.value("content-type") or "")
        try:
            try:
                plan = choose(self.rules, request)
            except PlanError as exc:
                response, plan = error_response(400, f"X-Simulate: {exc}"), Plan()
                self._read(wire, request, upload, plan)
            else:
                if not plan.early:
                    self._read(wire, request, upload, plan)
                if wants_websocket(request) and plan.status is None and self._is_admitted(request):
                    outcome = "fault"
                    self._serve_websocket(wire, request, plan)
                    outcome = "whole"
                    return False
                response = self._choose_response(request, upload, plan)
            sender = Sender(wire, request, plan, exchange, self.interval_s)
            sender.send(response)
            outcome = "whole"
            if plan.early:
                self._read(wire, request, upload, plan)
        except Fault:
            outcome = "fault"
            raise
        except BrokenBody:
            return False
        finally:
            self.witness.ended(exchange, outcome)
            upload.close()
        return not (request.wants_close or plan.close or plan.drop or sender.is_last)

    def _serve_websocket(self, wire: Wire, request: Request, plan: Plan) -> None:
        """Serve a WebSocket; what it was asked and how the client closed it is kept for the control resource."""
        extension = dict(plan.fields).get("Sec-WebSocket-Extensions")
        socket = WebSocket(wire, request, extension=extension)
        self.sockets.append(socket)
        socket.serve()

    def _read(self, wire: Wire, request: Request, upload: Upload, plan: Plan) -> None:
        """Take in the body and write the witness line, also when the body breaks off."""
        if plan.proceed and (request.value("expect") or "").lower() == "100-continue":
            wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        is_whole = False
        try:
            for piece in wire.body(request):
                upload.add(piece)
            is_whole = True
        finally:
            self.witness.received(request, body_bytes=upload.size, body_sha256=upload.sha256, is_whole=is_whole)

    def _choose_response(self, request: Request, upload: Upload, plan: Plan) -> SimulatedResponse:
        if plan.redirect is not None:
            return json_response({}, plan.status or 307)
        if plan.status is not None and plan.status >= 400:
            return self._kind.error(plan.status, f"Simulated {plan.status}.", "simulated", "simulated_error")
        if not self._is_admitted(request):
            return self._kind.error(401, "Incorrect API key provided.", "invalid_api_key")
        if plan.size is not None:
            response = sized_response(plan.size)
        elif plan.body is not None:
            response = SimulatedResponse(200, "application/json", [plan.body.encode()], len(plan.body.encode()))
        else:
            response = self._responder.respond(request, upload, plan)
        response.status = plan.status or response.status
        return response

    def _is_admitted(self, request: Request) -> bool:
        if self.key is None:
            return True
        wanted = hashlib.sha256(self.key.encode()).digest()
        presented = (hashlib.sha256(key.encode()).digest() for key in self._kind.presented(request))
        return any(hmac.compare_digest(key, wanted) for key in presented)

    # -- the control resource: not part of the witness ---------------------------------------------------------------

    def _control(self, wire: Wire, request: Request) -> bool:
        """GET /_simulator (counts), GET /_simulator/exchanges, PUT /_simulator/rules."""
        body = b"".join(wire.body(request))
        match request.method, request.path.removeprefix(CONTROL):
            case "GET", "":
                response = json_response(self.witness.state())
            case "GET", "/exchanges":
                response = json_response([asdict(exchange) for exchange in self.witness.exchanges])
            case "GET", "/websockets":
                response = json_response([{"turns": ws.turns, "closed_with": ws.closed_with} for ws in self.sockets])
            case "PUT", "/rules":
                response = self._replace_rules(body)
            case _:
                response = error_response(404, "No such control.")
        Sender(wire, request, Plan(), Exchange(0, 0, "", "", None), 0.0).send(response)
        return not request.wants_close

    def _replace_rules(self, body: bytes) -> SimulatedResponse:
        try:
            self.rules[:] = read_rules(json.loads(body))
        except PlanError as exc:
            return error_response(400, str(exc))
        except ValueError:
            return error_response(400, "expected JSON")
        return json_response({"rules": len(self.rules)})
