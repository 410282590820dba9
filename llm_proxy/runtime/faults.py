"""Errors that name every fault at once."""

from collections.abc import Sequence
from typing import ClassVar


class Faults(Exception):
    """One or more faults of what an operator wrote; a line each, without a secret."""

    separator: ClassVar[str] = "\n"  # between the faults in the message

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__(self.separator.join(faults))
        self.faults = list(faults)
