"""A provider's response without a provider."""

from collections.abc import Iterator, Sequence


class UpstreamResponse:
    """A response of given pieces; an exception among them is raised."""

    def __init__(self, *pieces: bytes | BaseException) -> None:
        self.pieces: Sequence[bytes | BaseException] = pieces
        self.closed = 0

    def chunks(self) -> Iterator[bytes]:
        """Yield the pieces."""
        for piece in self.pieces:
            if isinstance(piece, BaseException):
                raise piece
            yield piece

    def close(self) -> None:
        """Count the call."""
        self.closed += 1
