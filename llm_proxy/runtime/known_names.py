"""The bound on what is remembered about fields' names, which the other side of a connection chooses."""

from collections.abc import Sized
from typing import Final

MOST: Final = 2048  # names
LONGEST: Final = 128  # bytes or characters of one


def has_room(name: Sized, *known: Sized) -> bool:
    """Return whether one more name may be remembered beside those that are known."""
    return len(name) <= LONGEST and sum(map(len, known)) < MOST
