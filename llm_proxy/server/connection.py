"""One client connection: its requests in turn, each to the application and back."""

import contextlib
import socket
import ssl
import struct
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any, Protocol

import gevent
import gevent.socket
from gunicorn.http.errors import InvalidRequestLine, LimitRequestHeaders, NoMoreData
from gunicorn.http.message import RFC9110_5_3_SINGLETON_FIELDS, Request
from gunicorn.http.parser import RequestParser

from llm_proxy.errors import ClientConnectionError, ClientGone, LlmProxyError
from llm_proxy.runtime.known_names import has_room
from llm_proxy.runtime.tracebacks import drop_tracebacks
from llm_proxy.server import error_responses
from llm_proxy.server.body import RequestBody, bounded
from llm_proxy.server.disconnect import DisconnectWatch, WatchedClient
from llm_proxy.server.environ import EnvironMaker
from llm_proxy.server.hooks import Refusal
from llm_proxy.server.idle import IdleTimer
from llm_proxy.server.request_checks import check
from llm_proxy.server.response import SWITCHING_STATUS, ClientResponse, ShortBody
from llm_proxy.server.state import ServerState
from llm_proxy.server.unreader import Unreader
from llm_proxy.server.usual_head import UsualHead, UsualHeads
from llm_proxy.settings import ServerSettings

LINGER_S = 5.0  # how long what a refused client still sends is read away, in all …
LINGER_SILENCE_S = 1.0  # … and at most in silence
DRAIN_SILENCE_S = 1.0  # for the small rest of a body that the application did not read
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends RST
_NO_BODY: Iterable[bytes] = ()


_LOOKED_AT = RFC9110_5_3_SINGLETON_FIELDS | {"EXPECT"}  # by gunicorn's policy, whatever the peer is
_names: dict[str, str] = {}


class Head(Request):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's request; no peer is believed about scheme or address, so none is looked up, which takes 7 µs.

    All requests share the texts of their fields' names.
    """

    def _peer_trusted_for_forwarded(self) -> tuple[dict[str, str], list[str]]:
        return {}, []

    body: Any

    def set_body_reader(self) -> None:
        """Read chunks of a possible size only."""
        super().set_body_reader()
        self.body = bounded(self.body, self.unreader)

    def _parse_fast(self, unreader: Any, buf: bytearray) -> Any:
        """Parse by C, which calls a head of more than 256 fields malformed, and does not say why."""
        try:
            return super()._parse_fast(unreader, buf)
        except InvalidRequestLine as exc:
            if bytes(buf).partition(b"\r\n\r\n")[0].count(b"\r\n") > self.limit_request_fields:
                raise LimitRequestHeaders(str(exc)) from exc
            raise

    def _apply_header_policy(self, name: str, value: str, *state: Any, **options: Any) -> tuple[str, str] | None:
        known = _names.get(name)
        if known is not None:
            return known, value
        kept: tuple[str, str] | None = super()._apply_header_policy(name, value, *state, **options)
        if kept is not None and name not in _LOOKED_AT and has_room(name, _names):
            _names[name] = name
        return kept


class Parser(RequestParser):  # type: ignore[misc]
    """gunicorn's parser, for the proxy's heads."""

    mesg_class = Head


class Host(Protocol):
    """What a connection needs of its worker."""

    cfg: Any
    log: Any
    wsgi: Callable[..., Iterable[bytes]]
    settings: ServerSettings
    state: ServerState
    watch: DisconnectWatch
    idle: IdleTimer
    takes: Callable[[str, str], bool]

    def refused(self, refusal: Refusal) -> None:
        """Call the application's hook."""

    def leave(self, connection: "Connection") -> None:
        """Nothing of this connection is worth waiting for any more."""

    def count(self) -> None:
        """One more request has been read."""


class Connection:
    """Runs in its own greenlet.

    Attributes:
        is_idle: No byte of a next request has come, so it may be closed at any time.
        began: Monotonic seconds of its acceptance; None once a request has begun to come.
    """

    def __init__(self, host: Host, sock: Any, addr: Any, environs: EnvironMaker, heads: UsualHeads) -> None:
        self._host, self._sock, self._environs, self._heads = host, sock, environs, heads
        self._addr = _unmapped(addr)
        self._unreader = Unreader(sock, host.cfg.limit_request_line)
        self._unreader.write_silence_s = host.settings.client_write_timeout_s or None
        self._client = WatchedClient(host.watch, sock.fileno())
        self._received = 0.0
        self.is_idle = False
        self.began: float | None = monotonic()

    def shut_idle(self) -> None:
        """Have the wait for a next request end. One that has come by now is still read and answered.

        Its connection stays whole meanwhile: reading would end before its body, and the watch take its client for gone.
        """
        with contextlib.suppress(OSError):  # the client was faster
            if not self._has_bytes():
                self._sock._sock.shutdown(socket.SHUT_RD)  # gevent's own would break the wait with an error

    def _has_bytes(self) -> bool:
        """Whether bytes wait to be read. Raises OSError."""
        try:
            return bool(self._sock._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            return False

    def _wait_is_over(self) -> None:
        """End the wait at its limit; what has come by then, and proves to be no request, is waited behind once more."""
        self._host.idle.begin(self._wait_is_over)
        self.shut_idle()

    def serve(self) -> None:
        """Until one side closes. Never raises, but GreenletExit on a cut."""
        try:
            parser = Parser(self._host.cfg, self._sock, self._addr)
            parser.unreader = self._unreader
            while self._await_request():
                if not self._serve_one(parser):
                    break
        except OSError:
            pass  # the client's socket is gone
        except Exception:
            self._host.log.exception("A connection ended by a fault of the server")
        finally:
            self._host.leave(self)
            self._client.close()
            self._sock.close()

    def _await_request(self) -> bool:
        """Wait for the first byte of the next request. False: the client closed, or was idle for too long.

        Empty lines are no part of it: a client that sends nothing else is idle.
        """
        unreader, until = self._unreader, monotonic() + self._host.settings.keepalive_timeout_s
        if unreader.is_empty and not self._receive_first():
            return False
        while not unreader.skip_empty_lines():
            left_s = until - monotonic()
            if left_s <= 0:
                return False
            self._sock.settimeout(left_s)
            if not self._receive():
                return False
        self.began = None
        self._received = monotonic()
        return True

    def _receive_first(self) -> bool:
        """Wait for bytes without a timer: the worker's one ends the wait at its limit."""
        self._sock.settimeout(None)
        self._host.idle.begin(self._wait_is_over)
        try:
            return self._receive()
        finally:
            self._host.idle.over(self._wait_is_over)

    def _receive(self) -> bool:
        """Wait for bytes between two requests. False: none will come."""
        self.is_idle = True
        try:
            data = self._sock.recv(self._unreader.mxchunk)
        except OSError:  # a timeout, too
            return False
        finally:
            self.is_idle = False
        self._unreader.append(data)
        return bool(data)

    def _serve_one(self, parser: Any) -> bool:
        """Read one head, and answer. True: another request may follow."""
        req: Any = self._heads.read(self._unreader) or self._read_unusual(parser)
        if req is None:
            return False
        self._unreader.silence_s = self._host.settings.request_body_timeout_s or None
        self._sock.settimeout(self._host.settings.client_write_timeout_s or None)
        self._host.count()
        return self._exchange(req)

    def _read_unusual(self, parser: Any) -> Any:
        """Return the head as gunicorn reads it; None: there is none, or it was refused."""
        parser.mesg = None  # the last one is done with: gunicorn would look after its body without a time limit
        self._unreader.begin_head(self._received + self._host.settings.request_header_timeout_s)
        req = None
        try:
            req = next(parser)
            check(req)
        except (NoMoreData, StopIteration, ClientGone):
            return None
        except Exception as exc:
            self._refuse(exc, req)
            return None
        self._unreader.deadline = None
        return req

    def _environ(self, req: Any) -> dict[str, Any]:
        if type(req) is UsualHead and self._host.takes(req.uri, req.values["HOST"]):
            return self._environs.short(req, self._addr)
        return self._environs.make(req, self._sock, self._addr)

    def _exchange(self, req: Any) -> bool:
        expects = req._expected_100_continue
        if expects:
            req._expected_100_continue = False  # gunicorn would send it at once
        try:
            response = ClientResponse(req, self._sock, self._host.cfg)
            environ = self._environ(req)
        except Exception as exc:
            self._refuse(exc, req)
            return False
        body = RequestBody(req.body, self._unreader, self._send_continue(response) if expects else None)
        response.body = body
        environ["wsgi.input"] = body
        environ["llm_proxy.fields"] = req.headers
        environ["llm_proxy.client"] = self._client
        environ["llm_proxy.server"] = self._host.state
        environ["llm_proxy.received"] = self._received
        if self._host.state.phase != "serving":
            response.force_close()
        held = [environ]
        del environ
        try:
            self._run(held.pop(), response)
        except BaseException as exc:  # GreenletExit and gevent's Timeout are no Exceptions
            self._fail(exc, req, response)
            drop_tracebacks(exc)
            body.close()
            return False
        finally:
            self._client.unwatch()
        is_kept = self._is_kept(response, body)
        body.close()
        return is_kept

    def _run(self, environ: dict[str, Any], response: ClientResponse) -> None:
        """Drop the environment: 2 KiB that a long response would hold for nothing."""
        body = _NO_BODY
        try:
            body = self._host.wsgi(environ, response.start_response)
            del environ
            if response.status == SWITCHING_STATUS:
                self._switch(response, body)
                return
            for item in body:
                response.write(item)
            if response.status is None:
                raise AssertionError("the application did not call start_response")
            response.close()
        finally:
            close = getattr(body, "close", None)
            if close is not None:
                close()

    def _switch(self, response: ClientResponse, body: Any) -> None:
        """Hand the connection to a body that carries another protocol's bytes both ways, until it returns."""
        response.force_close()
        response.write(b"")
        self._client.unwatch()
        self._sock.settimeout(None)
        body.take_over(self._sock, self._unreader.take())
        self._linger()

    def _fail(self, exc: BaseException, req: Any, response: ClientResponse) -> None:
        """Make it visible to the client that the exchange did not end well."""
        if isinstance(exc, ClientGone):
            self._client.is_gone = True
        if isinstance(exc, LlmProxyError) and response.status is not None and not response.headers_sent:
            with contextlib.suppress(ClientGone):  # it broke before the first piece of its body: its head stays true
                response.write(b"")
        if response.headers_sent:
            if not isinstance(exc, LlmProxyError | ClientConnectionError | ShortBody | gevent.GreenletExit):
                self._log_fault(exc, req)
            if isinstance(exc, ClientGone) or not response.is_framed:
                self._reset()
        elif isinstance(exc, ClientConnectionError):  # the application has settled it: no access line of the server
            if isinstance(exc, LlmProxyError):
                self._send_error(exc, req, error_responses.request_id_of(req))
        elif not isinstance(exc, gevent.GreenletExit):
            self._log_fault(exc, req)
            self._send_error(LlmProxyError(), req, error_responses.request_id_of(req))

    def _log_fault(self, exc: BaseException, req: Any) -> None:
        self._host.log.error("Unhandled exception while answering %s", req.method, exc_info=exc)

    def _is_kept(self, response: ClientResponse, body: RequestBody) -> bool:
        if response.should_close():
            if not body.is_whole:
                self._linger()
            elif isinstance(self._sock, ssl.SSLSocket):
                self._close_notify()
            return False
        self._unreader.silence_s = DRAIN_SILENCE_S
        if not body.drain():
            self._linger()
            return False
        return True

    def _send_continue(self, response: ClientResponse) -> Callable[[], None]:
        def send() -> None:
            if response.headers_sent:
                return
            try:
                self._sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            except OSError as exc:
                raise ClientGone from exc

        return send

    # -- refusing and closing -------------------------------------------------------------------------------------

    def _refuse(self, exc: Exception, req: Any) -> None:
        """Answer what the application never sees. `req` is None when the head was not understood."""
        error = error_responses.as_error(exc)
        if error.status == 500:
            self._host.log.error("Unhandled exception while reading a request", exc_info=exc)
        request_id = error_responses.request_id_of(req)
        self._host.refused(
            Refusal(
                status=error.status,
                code=error.code or "internal_error",
                request_id=request_id,
                client_addr=str(self._addr[0]) if isinstance(self._addr, tuple) else "",
                method=getattr(req, "method", None),
                target=getattr(req, "uri", None),
                duration_s=monotonic() - self._received,
            )
        )  # before the client can know: a count that follows includes it
        self._send_error(error, req, request_id)

    def _send_error(self, error: LlmProxyError, req: Any, request_id: str) -> None:
        content = error_responses.render(error, request_id, with_body=getattr(req, "method", None) != "HEAD")
        self._sock.settimeout(LINGER_S)
        with contextlib.suppress(OSError):  # the client has gone, or reads nothing
            self._sock.sendall(content)
        self._linger()

    def _linger(self) -> None:
        """Read away what the client still sends, or the response could be lost to the reset that unread bytes cause."""
        self._host.leave(self)
        until = monotonic() + LINGER_S
        with contextlib.suppress(OSError):
            self._sock._sock.shutdown(socket.SHUT_WR)  # TLS stays as it is: a peer must not take it for a plain socket
            while (left := until - monotonic()) > 0:
                self._sock.settimeout(min(left, LINGER_SILENCE_S))
                if not gevent.socket.socket.recv(self._sock, 65536):  # below TLS: the content does not matter
                    break

    def _close_notify(self) -> None:
        """Say that the body ends here and was not cut off (RFC 8446 §6.1); the client's own is not waited for."""
        with contextlib.suppress(OSError, ValueError, AttributeError):  # want-read is the normal end
            self._sock._sslobj.shutdown()

    def _reset(self) -> None:
        """Close so that it can't be taken for the end of a body: RST, and no FIN before it."""
        self._client.close()
        with contextlib.suppress(OSError):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._sock.close()


def _unmapped(addr: Any) -> Any:
    """Return an IPv4 client of a socket for both versions as what it is."""
    if isinstance(addr, tuple) and addr[0].startswith("::ffff:") and "." in addr[0]:
        return (addr[0].removeprefix("::ffff:"), addr[1])
    return addr
