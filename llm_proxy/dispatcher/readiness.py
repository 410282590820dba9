"""What a dispatcher in the background tells the command that started it, over a pipe.

The end of the pipe without a word means that the process ended at its start. So no time decides whether it runs.
"""

import os
from contextlib import suppress
from typing import Final

STARTED: Final = b"s"  # the configuration is good, the health port is taken
OPENED: Final = b"o"  # the bus has been reached; the last word
ARGUMENT: Final = "--ready-fd="


class Readiness:
    """The writing end of the pipe; without a descriptor nothing is told."""

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = descriptor
        if descriptor is not None:
            os.set_inheritable(descriptor, False)

    @classmethod
    def from_arguments(cls, arguments: list[str]) -> "Readiness":
        """Return that of the process's arguments."""
        found = [argument for argument in arguments if argument.startswith(ARGUMENT)]
        return cls(int(found[0].removeprefix(ARGUMENT)) if found else None)

    def tell(self, word: bytes) -> None:
        """Tell it; the pipe is closed after OPENED. A reader that has gone is no fault."""
        if self._descriptor is None:
            return
        with suppress(BrokenPipeError):
            os.write(self._descriptor, word)
        if word == OPENED:
            os.close(self._descriptor)
            self._descriptor = None
