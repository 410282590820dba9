"""Budgets: what is settled so far decides, wherever it stands."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import pytest

from llm_proxy.errors import CostBudgetExceeded, ModelNotPriced, ServiceUnavailable, TokenBudgetExceeded
from llm_proxy.money import NANO
from llm_proxy.settings import TokenSettings
from llm_proxy.usage.budgets import SMALL_TOKENS, Budgets
from llm_proxy.usage.prices import load_prices


@dataclass(frozen=True)
class Project:
    """Facts of a project."""

    tokens_per_minute: int | None = None
    max_cost_nano_usd_per_month: int | None = None


@dataclass(frozen=True)
class Token:
    """Facts of a token."""

    id: str = "t"
    project_id: str = "p"
    tokens_per_minute: int | None = None
    max_total_tokens: int | None = None
    max_cost_nano_usd: int | None = None
    total_tokens: int = 0
    total_cost_nano_usd: int = 0
    project: Project = field(default_factory=Project)


def facts_of(**facts: Any) -> Any:
    """Return the facts of a token that budgets look at."""
    return Token(**facts)


class Bench:
    """Budgets over sums that a test sets."""

    def __init__(self) -> None:
        self.pending, self.month, self.reads, self.settled = (0, 0), 0, 0, 0
        self.today, self.now = date(2026, 2, 28), 0.0
        self.totals = (0, 0)
        self.forgotten = list[str]()
        self.is_away, self.is_at_rest = False, True
        self.budgets = Budgets(
            self,
            load_prices(TokenSettings()),
            self,
            settle=self._settle,
            forget=self.forgotten.append,
            today=lambda: self.today,
            clock=lambda: self.now,
        )

    def _settle(self) -> None:
        self.settled += 1

    def pending_of_token(self, token_id: str) -> tuple[int, int]:
        """See `budgets.Pending`."""
        return self.pending

    def pending_of_project(self, project_id: str, since: date) -> int:
        """See `budgets.Pending`."""
        assert since == self.today.replace(day=1)
        return self.pending[1]

    def at_rest(self) -> AbstractContextManager[bool]:
        """See `budgets.Pending`."""
        return nullcontext(self.is_at_rest)

    def read(self, sql: str, parameters: Any) -> list[Any]:
        """See `budgets.Reads`."""
        self.reads += 1
        if self.is_away:
            raise OSError
        return [(self.month,)] if "usage_daily" in sql else [self.totals]


def test_a_token_without_budgets_costs_nothing() -> None:
    """No reading, no statement."""
    bench = Bench()
    bench.budgets.check_token(facts_of())
    bench.budgets.check_project(facts_of())
    assert (bench.reads, bench.settled) == (0, 0)


@pytest.mark.parametrize(
    ("limits", "error"),
    [({"max_total_tokens": 100}, TokenBudgetExceeded), ({"max_cost_nano_usd": 100}, CostBudgetExceeded)],
)
def test_what_is_not_written_yet_counts(limits: dict[str, int], error: type[Exception]) -> None:
    """The row's total and this worker's own: 99 pass, 100 do not."""
    bench = Bench()
    token = facts_of(**limits, total_tokens=60, total_cost_nano_usd=60)
    bench.totals, bench.pending = (60, 60), (39, 39)
    bench.budgets.check_token(token)
    bench.pending = (40, 40)
    with pytest.raises(error):
        bench.budgets.check_token(token)
    assert bench.settled == 2


def test_a_month_begins_again() -> None:
    """The sum is of the UTC calendar month; it is read once a second at most, and again after a flush."""
    bench = Bench()
    token = facts_of(project=Project(max_cost_nano_usd_per_month=10 * NANO))
    bench.month = 4 * NANO
    for _ in range(3):
        bench.budgets.check_project(token)
    assert bench.reads == 1
    bench.month = 10 * NANO
    bench.budgets.flushed({"t"}, {"p"})
    with pytest.raises(CostBudgetExceeded):
        bench.budgets.check_project(token)
    bench.today, bench.month = date(2026, 3, 1), 0
    bench.budgets.check_project(token)
    assert bench.reads == 4
    bench.now += 1
    bench.budgets.check_project(token)
    assert bench.reads == 5


def test_a_budget_that_is_small_or_half_used_is_watched_closely() -> None:
    """What other workers have written since the facts were read decides, and what this token uses is urgent."""
    bench = Bench()
    token = facts_of(max_total_tokens=SMALL_TOKENS * 10, total_tokens=SMALL_TOKENS * 4)
    bench.budgets.check_token(token)
    assert (bench.reads, bench.budgets.is_close(token)) == (0, False)
    bench.pending, bench.totals = (SMALL_TOKENS, 0), (SMALL_TOKENS * 8, 0)
    bench.budgets.check_token(token)
    assert (bench.reads, bench.budgets.is_close(token)) == (1, True)
    bench.totals = (SMALL_TOKENS * 9, 0)
    with pytest.raises(TokenBudgetExceeded):
        bench.budgets.check_token(token)
    bench.is_at_rest = False  # a slow database: what is known has to do
    bench.budgets.check_token(token)
    with pytest.raises(TokenBudgetExceeded):
        bench.budgets.check_token(facts_of(max_total_tokens=10, total_tokens=10))


def test_a_month_that_is_nearly_spent_is_read_each_time() -> None:
    """What another worker has just written is felt by the next request."""
    bench = Bench()
    token = facts_of(project=Project(max_cost_nano_usd_per_month=100))
    bench.month = 99
    bench.budgets.check_project(token)
    assert bench.budgets.is_close(token)
    bench.month = 100
    with pytest.raises(CostBudgetExceeded):
        bench.budgets.check_project(token)


def test_an_outage_fails_closed() -> None:
    """503, never a budget that is not kept."""
    bench = Bench()
    bench.is_away = True
    with pytest.raises(ServiceUnavailable):
        bench.budgets.check_project(facts_of(project=Project(max_cost_nano_usd_per_month=1)))


def test_totals_that_were_written_are_read_again() -> None:
    """Only of tokens that are judged by them."""
    bench = Bench()
    bench.budgets.check_token(facts_of(max_total_tokens=10))
    bench.budgets.flushed({"t", "u"}, set())
    bench.budgets.flushed({"t"}, set())
    assert bench.forgotten == ["t"]


def test_money_wants_prices() -> None:
    """Of the token's or of the project's budget; a dated name will do."""
    bench = Bench()
    assert bench.budgets.needs_price(facts_of(max_cost_nano_usd=1))
    assert bench.budgets.needs_price(facts_of(project=Project(max_cost_nano_usd_per_month=1)))
    assert not bench.budgets.needs_price(facts_of(max_total_tokens=1))
    bench.budgets.check_model("gpt-4o-2024-08-06")
    with pytest.raises(ModelNotPriced):
        bench.budgets.check_model("gpt-4o-tuned")
