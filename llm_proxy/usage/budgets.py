"""Budgets of model tokens and of money: looked at before dispatch, by what is settled so far (data-plane 0.1).

Running exchanges finish, so a budget may be passed by what was in flight. What this worker has settled and not written
yet is counted at once; other workers' settlements come with the token's facts, within two seconds.
"""

import logging
import time
from collections.abc import Callable, Sequence
from datetime import date
from typing import Any, Protocol

from llm_proxy.db.errors import is_unavailable
from llm_proxy.db.types import utc_now
from llm_proxy.errors import CostBudgetExceeded, ModelNotPriced, ServiceUnavailable, TokenBudgetExceeded
from llm_proxy.usage.prices import Prices

FRESH_S = 0.9  # data-plane decision 4
_MOST = 10_000  # projects whose sums are remembered
_MONTH = "SELECT coalesce(sum(cost_nano_usd), 0) FROM usage_daily WHERE project_id = ? AND day >= ?"
_log = logging.getLogger(__name__)


class Project(Protocol):
    """The part of a project's facts that budgets need."""

    @property
    def tokens_per_minute(self) -> int | None:
        """None = no limit."""

    @property
    def max_cost_nano_usd_per_month(self) -> int | None:
        """None = no budget."""


class Token(Protocol):
    """The part of a token's facts that budgets need."""

    @property
    def id(self) -> str:
        """The row's id."""

    @property
    def project_id(self) -> str:
        """Its project's."""

    @property
    def tokens_per_minute(self) -> int | None:
        """None = no limit."""

    @property
    def max_total_tokens(self) -> int | None:
        """None = no budget."""

    @property
    def max_cost_nano_usd(self) -> int | None:
        """None = no budget."""

    @property
    def total_tokens(self) -> int:
        """Model tokens that the row holds."""

    @property
    def total_cost_nano_usd(self) -> int:
        """Money that the row holds."""

    @property
    def project(self) -> Project:
        """Its project."""


class Pending(Protocol):
    """Sums that are not in the database yet."""

    def pending_of_token(self, token_id: str) -> tuple[int, int]:
        """Model tokens and money."""

    def pending_of_project(self, project_id: str, since: date) -> int:
        """Money since that day."""


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

    def check_token(self, token: Token) -> None:
        """Step 11: the token's own budgets. Raises TokenBudgetExceeded, CostBudgetExceeded."""
        most_tokens, most_cost = token.max_total_tokens, token.max_cost_nano_usd
        if most_tokens is None and most_cost is None:
            if token.tokens_per_minute is not None or token.project.tokens_per_minute is not None:
                self._settle()  # for the windows of step 12
            return
        self._settle()
        self._watched.add(token.id)
        tokens, cost = self._pending.pending_of_token(token.id)
        if most_tokens is not None and token.total_tokens + tokens >= most_tokens:
            raise TokenBudgetExceeded
        if most_cost is not None and token.total_cost_nano_usd + cost >= most_cost:
            raise CostBudgetExceeded

    def check_project(self, token: Token) -> None:
        """Step 12: the project's budget of the calendar month. Raises CostBudgetExceeded, ServiceUnavailable."""
        most = token.project.max_cost_nano_usd_per_month
        if most is None:
            return
        self._settle()
        since = self._today().replace(day=1)
        written = self._written(token.project_id, since)
        if written + self._pending.pending_of_project(token.project_id, since) >= most:
            raise CostBudgetExceeded(description="project budget of this month")

    @staticmethod
    def needs_price(token: Token) -> bool:
        """Whether money limits this token, so that what it asks for must have a price."""
        return token.max_cost_nano_usd is not None or token.project.max_cost_nano_usd_per_month is not None

    def check_model(self, model: str) -> None:
        """Step 13: the model that a request names. Raises ModelNotPriced."""
        if self._prices.of(model) is None:
            raise ModelNotPriced(param="model")

    def flushed(self, token_ids: set[str], project_ids: set[str]) -> None:
        """Sums of these have reached the database: what was read before is too low."""
        for token_id in token_ids & self._watched:
            self._watched.discard(token_id)
            self._forget(token_id)
        for project_id in project_ids:
            self._months.pop(project_id, None)

    def _written(self, project_id: str, since: date) -> int:
        """Money of the project's month that the database holds, at most FRESH_S old."""
        known, now = self._months.get(project_id), self._clock()
        if known is not None and known[1] == since and now - known[0] < FRESH_S:
            return known[2]
        try:
            found = int(self._reads.read(_MONTH, (project_id, since.isoformat()))[0][0])
        except Exception as error:
            _log.warning("a project's budget could not be read: %s", type(error).__name__, exc_info=_is_odd(error))
            raise ServiceUnavailable from error
        if len(self._months) >= _MOST:
            self._months.clear()
        self._months[project_id] = (now, since, found)
        return found


def _is_odd(error: BaseException) -> bool:
    return not is_unavailable(error)
