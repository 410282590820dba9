"""A row's leases: what may be granted, what is settled, and what silent workers are charged."""

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from llm_proxy.accounting.leases import FORGOTTEN_S, LAPSE_S, Claim, Entry, parse, plan, render, without
from llm_proxy.model.token import TokenSnapshot

NOW = 1_000_000.0


def row(max_requests: int | None, count: int = 0, **leases: tuple[int, int, float]) -> TokenSnapshot:
    """Return a token's row; leases by id, such as `_7`."""
    stored = json.dumps({name.strip("_"): list(entry) for name, entry in leases.items()}) if leases else None
    return cast(TokenSnapshot, SimpleNamespace(max_requests=max_requests, request_count=count, leases=stored))


def test_a_new_lease_is_granted_a_share_of_what_is_free() -> None:
    """Half of what is free, at most what the worker would like, at least what waits."""
    claim = Claim(lease=1, spent=0, waiters=1, size=8)
    assert plan(row(100), claim, NOW).granted == 8
    assert plan(row(10), claim, NOW).granted == 5
    assert plan(row(1), claim, NOW).granted == 1
    assert plan(row(100), replace(claim, waiters=20), NOW).granted == 20


def test_two_workers_never_hold_more_than_is_free() -> None:
    """What the other one holds unspent is not free."""
    made = plan(row(10, 4, _2=(8, 4, NOW)), Claim(lease=1, spent=0, waiters=5, size=64), NOW)
    assert made.granted == 2
    assert made.leases[2] == Entry(8, 4, NOW)


def test_spent_units_are_settled_once() -> None:
    """The difference to what the row knows goes into the count."""
    made = plan(row(100, 3, _1=(10, 3, NOW)), Claim(lease=1, spent=7, size=0), NOW)
    assert (made.count, made.delta, made.is_change) == (7, 4, True)
    again = plan(row(100, 7, _1=(7, 7, NOW)), Claim(lease=1, spent=7), NOW)
    assert (again.count, again.delta, again.is_change) == (7, 0, False)


def test_a_silent_lease_is_charged_and_never_granted_again() -> None:
    """Its owner may wake and spend what it holds."""
    made = plan(row(10, 0, _2=(6, 1, NOW - LAPSE_S - 1)), Claim(lease=1, spent=0, waiters=9, size=9), NOW)
    assert (made.charged, made.count, made.granted) == (5, 5, 5)
    assert made.leases[2].settled == 6


def test_a_lease_that_is_silent_for_a_day_goes() -> None:
    """The charge is final."""
    made = plan(row(10, 6, _2=(6, 6, NOW - FORGOTTEN_S - 1)), Claim(lease=1, spent=0, waiters=1), NOW)
    assert 2 not in made.leases


def test_a_used_up_token_is_exhausted_only_when_no_worker_holds_a_unit() -> None:
    """What another one holds may still come back."""
    claim = Claim(lease=1, spent=0, waiters=1)
    assert not plan(row(10, 8, _2=(2, 0, NOW)), claim, NOW).is_exhausted
    assert plan(row(10, 10), claim, NOW).is_exhausted


@pytest.mark.parametrize(("claim", "is_dead"), [(Claim(1, 2, is_closing=True), False), (Claim(1, 2, size=9), True)])
def test_a_lease_that_closes_and_a_dead_token_hold_nothing(claim: Claim, is_dead: bool) -> None:
    """Everything unspent goes back."""
    made = plan(row(10, 1, _1=(9, 1, NOW)), claim, NOW, is_dead=is_dead)
    assert (made.count, made.granted) == (2, 2)
    assert (1 in made.leases) is is_dead


def test_a_dead_workers_lease_is_settled_by_its_ledger_once() -> None:
    """The second time the row does not know it."""
    made = without(row(10, 1, _1=(9, 1, NOW)), 1, 4)
    assert made is not None
    assert (made.count, made.leases) == (4, {})
    assert without(row(10, 4), 1, 4) is None


@pytest.mark.parametrize("leases", [{}, {1: Entry(3, 2, 5.5), 2: Entry(0, 0, 1.0)}])
def test_leases_are_read_as_they_were_written(leases: dict[int, Entry]) -> None:
    """Nothing is stored where there is none."""
    assert parse(render(leases)) == leases


@pytest.mark.parametrize("stored", ["[]x", '{"a": [1, 2, 3]}', '{"1": [1]}'])
def test_another_programs_text_raises(stored: Any) -> None:
    """ValueError or TypeError, which the caller knows."""
    with pytest.raises((ValueError, TypeError)):
        parse(stored)
