"""What is written into a token's row about the holders of its units: pure arithmetic.

A lease is `[granted, settled, seen]`: cumulative and absolute numbers of one worker's units, and the database's time of
its last swap. `request_count` and Σ(granted − settled) together are what can be spent at most.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from llm_proxy.model.token import TokenSnapshot

LAPSE_S = 2.0  # a lease that was not heard of for longer counts as spent
FORGOTTEN_S = 86_400.0  # then its key goes, and the charge is final


class Entry(NamedTuple):
    """One worker's lease in the row."""

    granted: int
    settled: int
    seen_s: float


@dataclass(slots=True)
class Claim:
    """One worker's side.

    Attributes:
        lease: Its lease's id.
        spent: Units that its ledger shows.
        granted: Units that it was last granted, for a row that has forgotten the lease.
        waiters: Calls that wait for a unit.
        size: Units that it would like to hold unspent.
        is_closing: The lease is to go.
    """

    lease: int
    spent: int
    granted: int = 0
    waiters: int = 0
    size: int = 0
    is_closing: bool = False


@dataclass(slots=True)
class Plan:
    """What the row is to become.

    Attributes:
        count: `request_count`.
        leases: The leases to store.
        granted: What the worker may have spent once the row says so.
        delta: Units that the worker settles; negative when units came back.
        charged: Units of silent leases that are counted as spent.
        is_held: The row is to know this worker's lease: without that no unit may be noted.
        is_change: Whether the row differs from that at all.
        is_exhausted: No unit is left with any worker.
    """

    count: int
    leases: dict[int, Entry]
    granted: int
    delta: int
    charged: int
    is_held: bool
    is_change: bool
    is_exhausted: bool


def parse(stored: str | None) -> dict[int, Entry]:
    """Leases by id. Raises ValueError, TypeError for text of another program."""
    if not stored:
        return {}
    return {int(lease): Entry(*entry) for lease, entry in json.loads(stored).items()}


def render(leases: Mapping[int, Entry]) -> str | None:
    """Return the form that is stored; None when no worker holds or counts anything."""
    if not leases:
        return None
    return json.dumps({str(lease): list(entry) for lease, entry in leases.items()}, separators=(",", ":"))


def plan(row: TokenSnapshot, claim: Claim, now_s: float, *, is_dead: bool = False) -> Plan:
    """Settle what was spent, charge what is silent, and grant what may be granted.

    Args:
        now_s: The database's time.
        is_dead: The token is revoked or has expired: everything unspent goes back.
    """
    leases = parse(row.leases)
    mine = leases.pop(claim.lease, None)
    # Absent: the lease is new, was closed, or was forgotten after all that it was granted had been charged.
    settled = mine.settled if mine else min(claim.granted, claim.spent)
    delta = claim.spent - settled
    others = _others(leases, now_s)
    count = max(0, row.request_count + delta + others.charged)
    free = None if row.max_requests is None else row.max_requests - count - others.out
    is_held = not claim.is_closing and bool(mine or claim.waiters or claim.spent)  # opened when it is wanted
    give = 0
    if free is not None and not is_dead and is_held:
        share = free // (2 * others.workers)
        give = max(0, min(free, max(claim.waiters, min(claim.size, share))))
    granted = claim.spent + give
    is_change = bool(delta or others.is_change)
    if not is_held:
        is_change = is_change or mine is not None
    else:
        is_change = is_change or mine is None or mine[:2] != (granted, claim.spent)
        others.leases[claim.lease] = Entry(granted, claim.spent, now_s)
    is_exhausted = free is not None and not give and free + others.out <= 0
    return Plan(count, others.leases, granted, delta, others.charged, is_held, is_change, is_exhausted)


def without(row: TokenSnapshot, lease: int, spent: int) -> Plan | None:
    """Settle a dead worker's lease; None when the row does not know it: nothing is owed."""
    leases = parse(row.leases)
    mine = leases.pop(lease, None)
    if mine is None:
        return None
    delta = spent - mine.settled
    return Plan(
        max(0, row.request_count + delta), leases, spent, delta, 0, is_held=False, is_change=True, is_exhausted=False
    )


@dataclass(slots=True)
class _Others:
    leases: dict[int, Entry]
    out: int
    workers: int
    charged: int
    is_change: bool


def _others(leases: Mapping[int, Entry], now_s: float) -> _Others:
    kept: dict[int, Entry] = {}
    out, workers, charged = 0, 1, 0
    for lease, entry in leases.items():
        silent_s = abs(now_s - entry.seen_s)
        unspent = entry.granted - entry.settled
        if unspent > 0 and silent_s > LAPSE_S:
            charged += unspent  # never handed back: its owner may wake and spend it
            entry = Entry(entry.granted, entry.granted, entry.seen_s)
        elif unspent > 0:
            out += unspent
        if silent_s <= LAPSE_S:
            workers += 1
        if silent_s <= FORGOTTEN_S:
            kept[lease] = entry
    return _Others(kept, out, workers, charged, bool(charged or len(kept) != len(leases)))
