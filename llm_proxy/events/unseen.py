"""The tap of an exchange whose event nothing would read: it keeps no byte.

Events are made only when they are observed: a bus that other processes read, the file of events, or a subscriber of the
in-memory bus. `Publisher.has_observers` tells whether there is any; while there is none, exchanges are only counted. An
observer that comes later sees the exchanges that are dispatched from then on.
"""

from typing import Final


class Unseen:
    """Stands in for a capture; one instance serves all exchanges."""

    __slots__ = ()
    request_room: Final = 0

    def request_data(self, data: bytes, /) -> None:
        """Keep nothing."""

    def request_rest(self, size: int, /) -> None:
        """Count nothing."""

    def response_started(self, status: int | None, fields: list[tuple[str, str]], /) -> None:
        """Want no piece of the response."""


UNSEEN: Final = Unseen()
