"""Who may manage: the bearer of MANAGEMENT_TOKEN, and nobody who guesses for long."""

from collections.abc import Sequence
from typing import Protocol

from llm_proxy.crypto import equal
from llm_proxy.errors import TooManyFailures, Unauthorized


class Failures(Protocol):
    """Counts attempts by client address."""

    def note(self, address: str | None) -> int:
        """One that failed: seconds to wait, 0 when it is within the limit."""


class Gate:
    """Lets the right bearer through, always; wrong ones are answered, and from the 21st a minute only put off.

    Args:
        accepted: The management token, and the one before it while it is rotated. Empty ones let nobody through.
    """

    def __init__(self, accepted: Sequence[str]) -> None:
        self._accepted = [token for token in accepted if token]

    def check(self, authorization: str | None, client_ip: str | None, failures: Failures) -> None:
        """Raises Unauthorized, or TooManyFailures with the time to wait."""
        scheme, _, presented = (authorization or "").strip().partition(" ")
        presented = presented.strip()
        if scheme.lower() != "bearer" or not presented:
            raise Unauthorized
        if not self._is_right(presented):
            wait_s = failures.note(client_ip)
            if wait_s:
                raise TooManyFailures(retry_after_s=wait_s)
            raise Unauthorized("invalid management token")

    def _is_right(self, presented: str) -> bool:
        # WSGI hands over latin-1, settings are UTF-8. All are compared, so that time tells nothing.
        text = presented.encode("latin-1", "replace").decode("utf-8", "surrogateescape")
        return sum(equal(text, accepted) for accepted in self._accepted) > 0
