"""The provider's body on its way to the client."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from llm_proxy.runtime.short_turns import pause

Tap = Callable[[bytes], None]
Settle = Callable[[BaseException | None, int, bool], None]

_PIECES_A_TURN = 32  # a fast provider and a fast client never have the greenlet wait, and so no other one runs


class UpstreamResponse(Protocol):
    """The part of the transport's response that is relayed."""

    def chunks(self) -> Iterator[bytes]:
        """Raw bytes as they arrive, until the provider's own end; raises errors.UpstreamError for any other end."""

    def close(self) -> None:
        """Give the connection back, or drop it when content is unread. Idempotent."""


class Relay:
    """An iterable of body pieces that settles its exchange exactly once, however it ends.

    A WSGI server calls `close` on every way out, also when it never began to iterate (HEAD; a client that left at
    once), where a bare generator's `finally` would not run.

    Args:
        response: The provider's response.
        settle: Gets what ended the body (None for the provider's own end), the bytes that the server took, and whether
            the body had come to its own end; must not raise.
        has_content: False for HEAD, 204 and 304 (RFC 9110 §6.4.1): a body that is not iterated is complete.
        is_stream: Yield b"" first: the server then sends the head at once instead of with the first piece.
        taps: Each gets every piece before the client does; taps keep references and parse after the end.

    Attributes:
        sent_bytes: What the server has taken so far.
    """

    __slots__ = ("_failure", "_is_settled", "_is_stream", "_is_whole", "_response", "_settle", "_taps", "sent_bytes")

    def __init__(
        self,
        response: UpstreamResponse,
        settle: Settle,
        *,
        has_content: bool = True,
        is_stream: bool = False,
        taps: Sequence[Tap] = (),
    ) -> None:
        self._response, self._settle, self._taps, self._is_stream = response, settle, taps, is_stream
        self._failure: BaseException | None = None
        self._is_whole = not has_content
        self._is_settled = False
        self.sent_bytes = 0

    def __iter__(self) -> Iterator[bytes]:
        """Pieces as they arrive. What is raised goes on to the server, which cuts: broken must look broken."""
        try:
            if self._is_stream:
                yield b""
            taps = self._taps
            for number, piece in enumerate(self._response.chunks(), 1):
                for tap in taps:
                    tap(piece)
                yield piece
                self.sent_bytes += len(piece)  # after the yield: what the server took
                if not number % _PIECES_A_TURN:
                    pause()
            self._is_whole = True
        except GeneratorExit:  # dropped in the middle by its consumer
            raise
        except BaseException as exc:  # GreenletExit, the drain's cut, included
            self._failure = exc
            raise
        finally:
            self.close()

    def abandon(self, failure: BaseException) -> None:
        """Settle by what went wrong: the response cannot be sent."""
        self._failure = failure
        self.close()

    def close(self) -> None:
        """Release the provider's connection and settle; repeats do nothing."""
        if self._is_settled:
            return
        self._is_settled = True
        try:
            self._response.close()
        finally:
            self._settle(self._failure, self.sent_bytes, self._is_whole)
