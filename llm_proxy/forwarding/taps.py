"""Taps: what watches the bytes of an exchange's two bodies; events and usage are taps.

A tap keeps references and reads them after the end: nothing that it does may delay or change what passes.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from llm_proxy.forwarding.body import HeldBody, StreamedBody
from llm_proxy.forwarding.inspection import Body

DataTap = Callable[[bytes], None]


class Tap(Protocol):
    """One feature's view of one exchange. No method waits or raises."""

    @property
    def request_room(self) -> int:
        """How many bytes of a request body that is held on disk are of use."""

    def request_data(self, data: bytes, /) -> None:
        """Take a piece of the request's body that leaves for the provider; all of a body that is here already."""

    def request_rest(self, size: int, /) -> None:
        """So many more bytes of a body that is held on disk are sent without being shown."""

    def response_started(self, status: int | None, fields: list[tuple[str, str]], /) -> DataTap | None:
        """Return what gets each piece of the response's body, None where nothing is of use.

        Args:
            status: The provider's; None where a stored response is served without one.
            fields: As the client gets them.
        """


class TappedBody:
    """A streamed request body that taps see while it passes."""

    __slots__ = ("_body", "_taps")

    def __init__(self, body: StreamedBody, taps: Sequence[Tap]) -> None:
        self._body = body
        self._taps = [tap.request_data for tap in taps]

    def read1(self, n: int, /) -> bytes:
        """Return the next piece, as the body gives it."""
        data = self._body.read1(n)
        for tap in self._taps:
            tap(data)
        return data


Sendable = bytes | TappedBody | HeldBody | None  # what the transport takes


def tapped(body: Body | None, taps: Sequence[Tap]) -> Sendable:
    """Return the body to send in place of this one; taps see at once what is here already."""
    if body is None:
        return None
    if isinstance(body, StreamedBody):
        return TappedBody(body, taps)
    sendable = body.sendable() if isinstance(body, HeldBody) else body
    if isinstance(sendable, bytes):
        if sendable:
            for tap in taps:
                tap.request_data(sendable)
    else:
        _show(sendable, taps)
    return sendable


def _show(body: HeldBody, taps: Sequence[Tap]) -> None:
    """Show the beginning of a body that is held on disk."""
    room = max((tap.request_room for tap in taps), default=0)
    head = body.read1(room) if room else b""
    body.rewind()
    for tap in taps:
        tap.request_data(head)
        tap.request_rest(body.length - len(head))


def response_taps(taps: Sequence[Tap], status: int | None, fields: list[tuple[str, str]]) -> list[DataTap]:
    """Tell taps that the response begins; return those of them that want its body."""
    wanted = []
    for tap in taps:
        data_tap = tap.response_started(status, fields)
        if data_tap is not None:
            wanted.append(data_tap)
    return wanted
