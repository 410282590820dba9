"""Budgets of model tokens and of money: looked at before dispatch, by what is settled so far.

Running exchanges finish, so a budget may be passed by what was in flight. What this worker has settled and not written
yet is counted at once; other workers' settlements come with the token's facts, within two seconds. Where a budget is
small, or half used, both ways are shorter: what has ended is written at once, and read before each decision.
"""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import date
from typing import Any, Protocol

from llm_proxy.db.errors import is_unavailable
from llm_proxy.errors import CostBudgetExceeded, ModelNotPriced, ServiceUnavailable, TokenBudgetExceeded
from llm_proxy.model.token import TokenSnapshot
from llm_proxy.money import NANO
from llm_proxy.runtime.clock import utc_now
from llm_proxy.usage.prices import Prices

FRESH_S = 0.9
SMALL_TOKENS, SMALL_NANO_USD = 200_000, NANO  # budgets that a second's traffic may pass by a large part
_MOST = 10_000  # projects whose sums are remembered, and ids that are watched closely
_TOTALS = "SELECT total_tokens, total_cost_nano_usd FROM tokens WHERE id = ?"
_MONTH = "SELECT coalesce(sum(cost_nano_usd), 0) FROM usage_daily WHERE project_id = ? AND day >= ?"
_log = logging.getLogger(__name__)


class Pending(Protocol):
    """Sums that are not in the database yet."""

    def pending_of_token(self, token_id: str) -> tuple[int, int]:
        """Model tokens and money."""

    def pending_of_project(self, project_id: str, since: date) -> int:
        """Money since that day."""

    def at_rest(self) -> AbstractContextManager[bool]:
        """While nothing is being written: what the database holds and what is pending are all, and nothing twice.

        False: it takes too long to wait for that.
        """


class Reads(Protocol):
    """Runs a SELECT."""

    def read(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        """All rows; raises the driver's errors."""


class Budgets:
    """Steps 11 to 13 of the pipeline, as far as budgets go.

    Args:
        settle: Reads every exchange of this worker that has ended.
        forget: Called with a token's id whose totals have changed in the database.
        today, clock: The UTC day, and monotonic seconds.
    """

    def __init__(
        self,
        pending: Pending,
        prices: Prices,
        reads: Reads,
        *,
        settle: Callable[[], None],
        forget: Callable[[str], None],
        today: Callable[[], date] = lambda: utc_now().date(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pending, self._prices, self._reads = pending, prices, reads
        self._settle, self._forget, self._today, self._clock = settle, forget, today, clock
        self._watched: set[str] = set()
        self._months: dict[str, tuple[float, date, int]] = {}  # project → read at, first day, money
        self._close: set[str] = set()  # tokens and projects whose budgets are watched closely

    def is_close(self, token: TokenSnapshot) -> bool:
        """Whether what this token uses is to be written at once. Costs nothing where there is no budget."""
        close = self._close
        return bool(close) and (token.id in close or token.project_id in close)

    def check_token(self, token: TokenSnapshot) -> None:
        """Step 11: the token's own budgets. Raises TokenBudgetExceeded, CostBudgetExceeded."""
        most_tokens, most_cost = token.max_total_tokens, token.max_cost_nano_usd
        if most_tokens is None and most_cost is None:
            if token.tokens_per_minute is not None or token.project.tokens_per_minute is not None:
                self._settle()  # for the windows of step 12
            return
        self._settle()
        self._watched.add(token.id)
        tokens, cost = self._pending.pending_of_token(token.id)
        tokens, cost = tokens + token.total_tokens, cost + token.total_cost_nano_usd
        is_close = _is_close(tokens, most_tokens, SMALL_TOKENS) or _is_close(cost, most_cost, SMALL_NANO_USD)
        if self._watch(token.id, is_close):
            with self._pending.at_rest() as is_at_rest:
                if is_at_rest:
                    written, pending = self._totals(token.id), self._pending.pending_of_token(token.id)
                    tokens, cost = written[0] + pending[0], written[1] + pending[1]
        if most_tokens is not None and tokens >= most_tokens:
            raise TokenBudgetExceeded
        if most_cost is not None and cost >= most_cost:
            raise CostBudgetExceeded

    def check_project(self, token: TokenSnapshot) -> None:
        """Step 12: the project's budget of the calendar month. Raises CostBudgetExceeded, ServiceUnavailable."""
        most = token.project.max_cost_nano_usd_per_month
        if most is None:
            return
        self._settle()
        since = self._today().replace(day=1)
        used = self._written(token.project_id, since) + self._pending.pending_of_project(token.project_id, since)
        if self._watch(token.project_id, _is_close(used, most, SMALL_NANO_USD)):
            with self._pending.at_rest() as is_at_rest:
                if is_at_rest:
                    self._months.pop(token.project_id, None)
                    used = self._written(token.project_id, since)
                    used += self._pending.pending_of_project(token.project_id, since)
        if used >= most:
            raise CostBudgetExceeded(description="project budget of this month")

    @staticmethod
    def needs_price(token: TokenSnapshot) -> bool:
        """Whether money limits this token, so that what it asks for must have a price."""
        return token.max_cost_nano_usd is not None or token.project.max_cost_nano_usd_per_month is not None

    @staticmethod
    def is_limited(token: TokenSnapshot) -> bool:
        """Return whether any budget limits this token."""
        return token.max_total_tokens is not None or Budgets.needs_price(token)

    def check_model(self, model: str, provider: str = "") -> None:
        """Step 13: the model that a request names. Raises ModelNotPriced."""
        if self._prices.of(model, provider) is None:
            raise ModelNotPriced(param="model")

    def flushed(self, token_ids: set[str], project_ids: set[str]) -> None:
        """Note that sums of these have reached the database: what was read before is too low."""
        for token_id in token_ids & self._watched:
            self._watched.discard(token_id)
            self._forget(token_id)
        for project_id in project_ids:
            self._months.pop(project_id, None)

    def _watch(self, id_: str, is_close: bool) -> bool:
        if not is_close:
            self._close.discard(id_)
        elif id_ not in self._close:
            if len(self._close) >= _MOST:
                self._close.clear()
            self._close.add(id_)
        return is_close

    def _totals(self, token_id: str) -> tuple[int, int]:
        """Model tokens and money that the database holds; nothing of a token that is gone."""
        rows = self._read(_TOTALS, (token_id,))
        return (int(rows[0][0]), int(rows[0][1])) if rows else (0, 0)

    def _written(self, project_id: str, since: date) -> int:
        """Money of the project's month that the database holds, at most FRESH_S old."""
        known, now = self._months.get(project_id), self._clock()
        if known is not None and known[1] == since and now - known[0] < FRESH_S:
            return known[2]
        found = int(self._read(_MONTH, (project_id, since.isoformat()))[0][0])
        if len(self._months) >= _MOST:
            self._months.clear()
        self._months[project_id] = (now, since, found)
        return found

    def _read(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        try:
            return self._reads.read(sql, parameters)
        except Exception as error:
            _log.warning("a budget could not be read: %s", type(error).__name__, exc_info=not is_unavailable(error))
            raise ServiceUnavailable from error


def _is_close(used: int, most: int | None, small: int) -> bool:
    return most is not None and (most <= small or used * 2 >= most)
