"""A response's content as it arrives: still encoded, framing taken off, its true end told from a cut."""

import math
from collections.abc import Iterator
from time import monotonic
from typing import Any

from httptools import HttpParserError

from llm_proxy.transport.errors import Broken
from llm_proxy.transport.exchange import Exchange
from llm_proxy.transport.head import Head

FRAMING_BYTES = 65536  # that may pass without a byte of content: chunk extensions and trailers
_INF = math.inf


class Raw:
    """The content. Each `read1` is one `recv`, handed on whole and at once; nothing is waited for or put together.

    When the end is known with the head (no content, or all of it in the same packet) the connection goes back to the
    pool before the next read.
    """

    __slots__ = ("_head", "_left", "_paused_at", "_rest", "_silent", "_tail", "_x", "ended")

    def __init__(self, exchange: Exchange, head: Head, rest: bytes) -> None:
        self._x = exchange
        self._head = head
        self._rest = rest
        self._left = head.length
        self._silent = 0
        self._tail = b""
        self._paused_at = 0.0
        self.ended = False
        if 0 <= self._left <= len(rest):
            self._rest = rest[: self._left]
            self._finish(pool=len(rest) == self._left)
        else:
            self._pause()

    def read1(self) -> bytes:
        """Return what has arrived; b"" at the clean end, and ever after.

        Raises:
            RequestException: Cut, late, broken, or an end that is none; the connection is closed.
        """
        if self.ended:
            data, self._rest = self._rest, b""
            return data
        x = self._x
        try:
            x.check()
            if self._head.is_chunked:
                return self._chunked()
            return self._counted() if self._left >= 0 else self._until_close()
        except Exception as exc:
            self.close()
            failure = x.failure(exc)
            if failure is exc:
                raise
            raise failure from exc
        except BaseException:  # the greenlet is being killed
            self.close()
            raise

    def detached(self) -> tuple[Any, bytes]:
        """Return the connection after a 101, and what has come on it already."""
        rest, self._rest = self._rest, b""
        return self._x.sock, rest

    def stream(self, amt: int | None = None, decode_content: bool | None = None) -> Iterator[bytes]:
        """Return an iterator for requests' `iter_content`; sizes and decoding are not its business."""
        while data := self.read1():
            yield data

    def close(self) -> None:
        """Leave it: content not read to its end costs the connection."""
        self.ended = True
        self._rest = b""
        self._head.parser = None
        self._x.release(pool=False)

    def _recv(self) -> bytes:
        """Return the next bytes, b"" at EOF; the silence of the upstream is timed, the client's time is not."""
        x = self._x
        now = monotonic()
        if x.end != _INF:
            x.end += now - self._paused_at
        deadline = now + x.timeouts.idle_s
        x.deadline = deadline if deadline < x.end else x.end
        data: bytes = x.sock.recv(65536)
        self._pause()
        return data

    def _pause(self) -> None:
        """From here on the client is waited for: nothing of that is the upstream's."""
        x = self._x
        x.deadline = _INF
        if x.end != _INF:
            self._paused_at = monotonic()

    def _take(self) -> bytes:
        data, self._rest = self._rest, b""
        if not data:
            data = self._recv()
            if not data:
                raise Broken("the upstream closed the connection inside the content")
        return data

    def _counted(self) -> bytes:
        data = self._take()
        left = self._left = self._left - len(data)
        if left <= 0:
            if left < 0:
                data = data[:left]
            self._finish(pool=not left)
        return data

    def _until_close(self) -> bytes:
        data, self._rest = self._rest, b""
        if not data:
            data = self._recv()
            if not data:
                self._finish(pool=False)
        return data

    def _chunked(self) -> bytes:
        head = self._head
        parser, parts = head.parser, head.parts
        assert parser is not None
        while True:
            data = self._take()
            parts.clear()
            try:
                parser.feed_data(data)
            except HttpParserError as exc:
                if not head.done:
                    raise Broken(f"chunked framing refused: {exc}") from None
                head.surplus = True
            tail = self._tail = data[-6:] if len(data) > 5 else (self._tail + data)[-6:]
            if head.done:
                # llhttp swallows empty lines behind the end without a word.
                is_exact = tail.endswith(b"\r\n\r\n") and tail != b"\r\n\r\n\r\n"
                self._finish(pool=is_exact and not head.surplus)
            if parts or head.done:
                self._silent = 0
                return parts[0] if len(parts) == 1 else b"".join(parts)
            self._silent += len(data)
            if self._silent > FRAMING_BYTES:
                raise Broken("framing without end")

    def _finish(self, *, pool: bool) -> None:
        """End cleanly: before the last piece is handed out, so that the connection is free at once."""
        self.ended = True
        head, x = self._head, self._x
        head.parser = None
        x.pool.remember(x.sock)
        x.release(pool=pool and head.keeps)
