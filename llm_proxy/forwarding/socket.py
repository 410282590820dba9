"""One WebSocket that is relayed: raw bytes both ways, with a reader of frames beside each direction.

The provider's bytes pass as they come. The client's messages are held until they are whole, because one of them may
begin a turn; then the same bytes leave. What the proxy says itself, it says between two messages.
"""

import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any

import gevent
from gevent.event import Event
from gevent.lock import BoundedSemaphore

from llm_proxy import metrics
from llm_proxy.errors import LlmProxyError, UpstreamBroken, UpstreamCut, UpstreamError, UpstreamTimeout
from llm_proxy.forwarding.exchange import CLIENT_GONE, CUT_BY_OPERATOR, REVOKED
from llm_proxy.forwarding.handshake import Switched
from llm_proxy.forwarding.socket_limits import SocketLimits
from llm_proxy.forwarding.turns import Refused, SocketTurns
from llm_proxy.websocket import frames
from llm_proxy.websocket.dialects.openai import Unreadable
from llm_proxy.websocket.frames import BrokenFrame, FrameReader, Piece
from llm_proxy.websocket.messages import Assembler, MessageTooLong

RECV_BYTES, CLOSE_S = 32768, 0.3  # CLOSE_S: for a close frame to be taken by one side
FAREWELL_S = 0.2  # for the provider to close after it; a revoked socket has a second in all
_DRAIN = "drain"
_MOST_PENDING = 1000  # own messages that wait for the end of a fragmented one
_PIECES_A_TURN = 500  # frames that are read before other connections have their turn
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Closing:
    """How it is ended from this side."""

    code: int
    reason: str
    cause: BaseException


class Socket:
    """Carries one WebSocket's bytes until one side ends it, or `close` does.

    Args:
        response: The provider's 101.
        turns: Its turns.
        must_read: Whether what cannot be read ends it: a quota, a budget or rules depend on it.
        ended: Told once, with the bytes that went to the client and to the provider, and the code that closed it.

    Attributes:
        sent_bytes: That went to the client.
        opened_s, moved_s: Monotonic times of its begin, and of the last byte that moved.
        stuck_s: Since when the client takes no byte; None while nothing waits for it.
    """

    __slots__ = (
        "_client", "_client_lock", "_closing", "_control", "_down", "_down_messages", "_ended", "_finisher",
        "_has_said", "_is_down_over", "_is_provider_gone", "_is_raw_down", "_is_raw_up", "_limits", "_must_read",
        "_over", "_pending", "_pinged_s", "_pings", "_provider", "_provider_lock", "_response", "_seen_code", "_spent",
        "_up", "_up_messages",
        "moved_s", "opened_s", "sent_bytes", "stuck_s", "taken_bytes", "turns",
    )  # fmt: skip

    def __init__(
        self,
        response: Switched,
        turns: SocketTurns,
        limits: SocketLimits,
        *,
        must_read: bool,
        ended: Callable[["Socket", int], None],
    ) -> None:
        self._response, self.turns, self._limits = response, turns, limits
        self._must_read, self._ended = must_read, ended
        self._client: Any = None
        self._provider: Any = None
        self._client_lock, self._provider_lock = BoundedSemaphore(), BoundedSemaphore()
        self._down, self._up = FrameReader(is_masked=False), FrameReader(is_masked=True)
        self._down_messages = Assembler(limits.message_bytes)
        self._up_messages = Assembler(limits.message_bytes, keeps_raw=True)
        self._is_raw_down = self._is_raw_up = False  # frames cannot be told apart any more, and need not be
        self._is_provider_gone = self._is_down_over = self._has_said = False
        self._control: list[Piece] = []
        self._pending: list[bytes] = []
        self._pings: bytes | None = None
        self._closing: Closing | None = None
        self._finisher: Any = None
        self._over: Event | None = None  # made when it is needed: set at the end of the provider's bytes
        self._spent: str | None = None
        self._seen_code = 0
        self.sent_bytes = self.taken_bytes = 0
        self.opened_s = self.moved_s = self._pinged_s = monotonic()
        self.stuck_s: float | None = None
        turns.ender = self

    # -- its life -----------------------------------------------------------------------------------------------------

    def take_over(self, client: Any, early: bytes) -> None:
        """Carry bytes until the end. Called by the server layer with the client's connection."""
        cause: BaseException = UpstreamBroken().at("body", is_sent=True)
        up = None
        try:
            self._client = client
            self._provider, first = self._response.switched()
            self._provider.settimeout(None)
            up = gevent.spawn(self._run_up, early)
            self._pump_down(first)
        except UpstreamError as error:
            cause = error
        except OSError:
            pass  # one of the two connections broke; `_run_up` has said so where it was the client's
        except BaseException as error:  # the drain's cut
            cause = error
            self._say_farewell(frames.SERVICE_RESTART, "draining")
            raise
        finally:
            self._is_down_over = True
            if self._over is not None:
                self._over.set()
            self._stop(cause, up)

    def __iter__(self) -> Iterator[bytes]:
        """There is no content but what `take_over` carries."""
        return iter(())

    def abandon(self, failure: BaseException) -> None:
        """End the response by what went wrong: it could not be sent."""
        self._stop(failure, None)

    def close(self) -> None:
        """End it where the server layer never took it over."""
        self._stop(UpstreamCut(CLIENT_GONE), None)

    def _stop(self, cause: BaseException, up: Any) -> None:
        if self._finisher is not None and isinstance(cause, Exception):  # a killed greenlet does not wait
            self._finisher.join(2 * CLOSE_S + FAREWELL_S)
        self.turns.end(cause)
        self._response.close()
        if up is not None:
            up.kill(timeout=1.0)  # waited for: the server layer reads the client's connection to its end
        self.turns.ender = None  # which is this socket
        self._ended(self, self._closing.code if self._closing else self._seen_code)

    def _run_up(self, early: bytes) -> None:
        """Carry the client's bytes; its end ends the provider's connection, and with it the other direction."""
        try:
            self._pump_up(early)
        except (OSError, UpstreamError):
            pass  # either side has gone
        except Exception:
            _log.exception("a WebSocket failed")
        if self._closing is None and not self._is_provider_gone:
            self.turns.end(UpstreamCut(CLIENT_GONE))
            self._response.close()

    # -- provider → client --------------------------------------------------------------------------------------------

    def _pump_down(self, data: bytes) -> None:
        while True:
            if data:
                self.moved_s = monotonic()
                if self._closing is None:
                    with self._client_lock:
                        out = self._read_down(data)
                        if out:
                            self._write_client(out)
                if self._spent is not None and not self.turns.is_running:
                    self.end(frames.POLICY_VIOLATION, self._spent, UpstreamCut(REVOKED))
            data = self._provider.recv(RECV_BYTES)
            if not data:
                return

    def _write_client(self, out: bytes) -> None:
        """Send to the client; the caller holds the lock."""
        self.stuck_s = monotonic()
        try:
            self._client.sendall(out)
        except OSError as exc:
            raise UpstreamCut(CLIENT_GONE) from exc
        self.stuck_s, self.moved_s = None, monotonic()
        self.sent_bytes += len(out)

    def _read_down(self, data: bytes) -> bytes:
        """Return what to send for the provider's bytes: they themselves, and between messages what waits."""
        if self._is_raw_down:
            return data
        out: list[bytes] = []
        try:
            for piece in self._down.feed(data):
                out.append(piece.raw)
                if piece.is_control:
                    self._note_close(piece)
                else:
                    self._add_down(piece)
                if self._pending and self._down.is_between_messages:
                    out += self._pending
                    self._pending = []
        except BrokenFrame as broken:
            self._unread()
            if not self._must_read:
                self._is_raw_down = True
                out.append(broken.rest)
        except MessageTooLong:
            self.end(frames.MESSAGE_TOO_BIG, "message_too_long", UpstreamBroken().at("body", is_sent=True))
        except LlmProxyError as error:  # a turn that the provider began, and that nothing pays for
            self.end(frames.POLICY_VIOLATION, error.code or "rate_limit_exceeded", UpstreamCut(REVOKED))
        return b"".join(out)

    def _add_down(self, piece: Piece) -> None:
        message = self._down_messages.add(piece)
        if message is None:
            return
        try:
            self.turns.on_server(message, self)
        except Unreadable:
            self._unread()

    def _note_close(self, piece: Piece) -> None:
        if piece.opcode == frames.CLOSE and len(piece.payload) >= 2 and not self._seen_code:
            self._seen_code = int.from_bytes(piece.payload[:2], "big")

    # -- client → provider --------------------------------------------------------------------------------------------

    def _pump_up(self, data: bytes) -> None:
        while True:
            if data:
                self.moved_s = monotonic()
                if self._closing is None:
                    self._read_up(data)
            data = self._client.recv(RECV_BYTES)
            if not data:
                return

    def _write_provider(self, out: bytes) -> None:
        try:
            with self._provider_lock:
                self._provider.sendall(out)
        except OSError:
            self._is_provider_gone = True  # the other direction meets the same
            raise
        self.taken_bytes += len(out)

    def _read_up(self, data: bytes) -> None:
        if self._is_raw_up:
            self._write_provider(data)
            return
        out: list[bytes] = []
        try:
            for number, piece in enumerate(self._up.feed(data)):
                if number % _PIECES_A_TURN == _PIECES_A_TURN - 1:
                    gevent.sleep(0)
                if piece.is_control:
                    self._add_control(piece, out)
                elif (message := self._up_messages.add(piece)) is not None:
                    self._take_message(message, out)
                if self._closing is not None:
                    return
        except BrokenFrame as broken:
            self._unread()
            if self._must_read:
                return
            self._is_raw_up = True
            out += (self._up_messages.raw(), broken.rest)
        except MessageTooLong:
            self.end(frames.MESSAGE_TOO_BIG, "message_too_long", UpstreamCut(CLIENT_GONE))
            return
        if out:
            self._write_provider(b"".join(out))

    def _add_control(self, piece: Piece, out: list[bytes]) -> None:
        """Let a control frame pass once it is whole, but for the response to a ping of the proxy's own."""
        self._control.append(piece)
        if not piece.ends_frame:
            return
        payload, raw = (b"".join(part) for part in ((p.payload for p in self._control), (p.raw for p in self._control)))
        self._control = []
        self._note_close(piece)
        if piece.opcode == frames.PONG and self._pings is not None and payload == self._pings:
            return
        if piece.opcode == frames.CLOSE:
            out.append(self._up_messages.raw())  # of a message that will never be whole
        out.append(raw)

    def _take_message(self, message: bytes, out: list[bytes]) -> None:
        """Look at a whole message; what stands before it is sent first, because a turn may have to wait for a unit."""
        raw = self._up_messages.raw()
        if out:
            self._write_provider(b"".join(out))
            out.clear()
        try:
            self.turns.on_client(message, self)
        except Refused as refused:
            self._say(frames.frame(frames.TEXT, refused.message))
            return
        except Unreadable:
            self._unread()
        if self._closing is None:
            out.append(raw)

    # -- what the proxy says itself -----------------------------------------------------------------------------------

    def _say(self, frame: bytes) -> None:
        """Send a frame to the client between two messages."""
        with self._client_lock:
            if self._is_raw_down or self._closing is not None:
                return
            if self._down.is_between_messages:
                self._write_client(frame)
            elif len(self._pending) < _MOST_PENDING:
                self._pending.append(frame)
            else:
                self.end(frames.POLICY_VIOLATION, "too_many_refusals", UpstreamCut(CLIENT_GONE))

    def ping(self, now: float) -> None:
        """Send a ping where one is due and the client takes bytes. Does not wait."""
        if not self._limits.ping_s or now - self._pinged_s < self._limits.ping_s or self._is_raw_down:
            return
        if not self._down.is_between_frames or self._client_lock.locked() or self._client is None:
            return
        self._pinged_s = now
        if self._pings is None:
            self._pings = os.urandom(8)
        gevent.spawn(self._say, frames.frame(frames.PING, self._pings))

    def _unread(self) -> None:
        """Count what could not be read; where something depends on it, that is the end."""
        metrics.WS_UNREAD.inc()
        if self._must_read:
            self.end(frames.PROTOCOL_ERROR, "unreadable", UpstreamCut(CLIENT_GONE))

    # -- ending it ----------------------------------------------------------------------------------------------------

    @property
    def is_closing(self) -> bool:
        """Whether it is being ended from this side."""
        return self._closing is not None

    def spent(self, code: str) -> None:
        """See `turns.Ender`."""
        self._spent = code
        if not self.turns.is_running:
            self.end(frames.POLICY_VIOLATION, code, UpstreamCut(REVOKED))

    def cut(self, reason: str) -> None:
        """End it as exchanges are cut; safe in the hub."""
        if reason == _DRAIN:
            self.end(frames.SERVICE_RESTART, "draining", UpstreamCut(_DRAIN))
        elif reason == CLIENT_GONE:
            self.end(frames.GOING_AWAY, "client_gone", UpstreamCut(CLIENT_GONE))
        else:
            code = "cut_by_operator" if reason == CUT_BY_OPERATOR else reason
            self.end(frames.POLICY_VIOLATION, code, UpstreamCut(reason))

    def end(self, code: int, reason: str, cause: BaseException) -> None:
        """Begin to close it on both sides; safe in the hub. The first call counts."""
        if self._closing is None:
            self._closing, self._over = Closing(code, reason, cause), Event()
            self._finisher = gevent.spawn(self._finish, self._closing)

    def _finish(self, closing: Closing) -> None:
        self.turns.end(closing.cause)
        self._say_farewell(closing.code, closing.reason)
        if self._over is not None and not self._is_down_over:  # the provider may want to answer
            self._over.wait(FAREWELL_S)
        self._response.close()
        if self.stuck_s is not None:
            self._break_client()

    def _break_client(self) -> None:
        """Shut down the connection of a client that takes nothing, so that the write that waits for it fails."""
        with suppress(OSError), socket.socket(fileno=os.dup(self._client.fileno())) as plain:  # beneath TLS, too
            plain.shutdown(socket.SHUT_RDWR)

    def _say_farewell(self, code: int, reason: str) -> None:
        """Send a close frame to each side, as far as it takes it at once and no frame is under way."""
        if self._client is None or self._provider is None or self._has_said:
            return
        self._has_said = True
        with suppress(OSError), gevent.Timeout(CLOSE_S, False), self._client_lock:
            if self._down.is_between_frames and not self._is_raw_down:
                self._client.sendall(frames.close_frame(code, reason))
        with suppress(OSError), gevent.Timeout(CLOSE_S, False), self._provider_lock:
            if not self._is_raw_up:
                self._provider.sendall(frames.close_frame(code, reason, is_masked=True))

    def late(self, now: float) -> tuple[int, str] | None:
        """Return why its time is over, as code and reason; None while it is not."""
        moved_s = self.moved_s if self.stuck_s is None else min(self.moved_s, self.stuck_s)
        return self._limits.late(now, self.opened_s, moved_s, is_running=self.turns.is_running)

    def end_late(self, late: tuple[int, str]) -> None:
        """End it because its time is over."""
        self.end(*late, UpstreamTimeout().at("body", is_sent=True))
