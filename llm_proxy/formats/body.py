"""What is kept of a body that has passed by."""

from typing import NamedTuple


class Body(NamedTuple):
    """What is left of a body, its content coding undone.

    Attributes:
        head: Its beginning; all of it when `missing` is 0.
        tail: Its end, where something is missing between the two.
        missing: Bytes between head and tail.
        is_readable: False where the coding could not be undone.
    """

    head: bytes
    tail: bytes = b""
    missing: int = 0
    is_readable: bool = True

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing."""
        return not self.missing

    @property
    def total_bytes(self) -> int:
        """The whole's length."""
        return len(self.head) + self.missing + len(self.tail)

    @property
    def scale(self) -> float:
        """The whole's length over that of what is kept."""
        kept = len(self.head) + len(self.tail)
        return (kept + self.missing) / kept if kept else 1.0
