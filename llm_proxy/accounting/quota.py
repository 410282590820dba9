"""The seam between accounting and the pipeline.

The rule: a request is charged one unit when the proxy starts sending it to the provider, and the unit
is returned only if no byte of it could be sent.
"""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from llm_proxy.model.token import TokenSnapshot

Unit = Any  # one request's charge, the implementation's own; committed or released once, the later call does nothing


class Quota(Protocol):
    """Charges requests; every implementation counts exactly."""

    def check(self, token: TokenSnapshot) -> None:
        """Raise QuotaExhausted when the quota is known to be used up; charge nothing and ask no database."""

    def reserve(self, token: TokenSnapshot) -> Unit:
        """Charge one unit. May wait for units that others still hold.

        Raises:
            QuotaExhausted: No unit is left with any worker.
            TokenInactive, TokenExpired, TokenNotFound: It was so in the meantime.
            ServiceUnavailable: The database does not answer, or the quota could not be settled in time.
            Overloaded: More tokens are in use than can be noted.
        """

    def commit(self, unit: Unit) -> None:
        """Spend the unit for good: the first byte is on its way."""

    def release(self, unit: Unit) -> None:
        """No byte was sent: the unit comes back. Does nothing after `commit`. Never raises, never waits."""

    def touch(self, token: TokenSnapshot) -> None:
        """Record a use of the token without a charge: move `last_used_at` alone."""

    def count_hit(self, token: TokenSnapshot) -> None:
        """Answered from the cache: `cache_hit_count` and `last_used_at`."""

    def forget(self, token_id: str) -> None:
        """Something about this token was changed in this process: the next request reads it again."""

    def cut_streams(
        self, streams: Callable[[], Iterable[str]], cut: Callable[[str], None], *, with_project: bool = True
    ) -> None:
        """REVOKE_CUTS_STREAMS: `streams` names the tokens that have live ones, `cut` ends those of a revoked one.

        With `with_project`, a token whose project is deactivated counts as revoked.
        """

    def watch_sockets(
        self, tokens: Callable[[], Iterable[str]], seen: Callable[[str, TokenSnapshot | None], None]
    ) -> None:
        """Have each sync read the tokens that have open WebSockets, and tell `seen` what it found; None: it is gone."""

    def start(self) -> None:
        """Settle what dead workers left, then sync in a greenlet of this worker."""

    def sync(self) -> None:
        """Settle, return what is not needed, learn what has changed. Never raises."""

    def close(self) -> None:
        """Settle everything for the last time."""
