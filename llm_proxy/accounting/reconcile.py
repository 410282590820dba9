"""Do the counts agree? Token counters, what ledgers still hold, and what a witness saw."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llm_proxy.accounting import leases, ledger
from llm_proxy.accounting.ledger import Noted

SILENT_S = 10.0  # a lease that is in use is heard of more often; long streams alone keep one that is not


@dataclass(frozen=True, slots=True)
class Counted:
    """A token's row, as far as counts go.

    Attributes:
        request_count: Units settled.
        max_requests: The limit; None = unlimited.
        leases: The holders of units.
    """

    id: str
    request_count: int
    max_requests: int | None
    leases: str | None


@dataclass(frozen=True, slots=True)
class Line:
    """One token's numbers.

    Attributes:
        counted: `request_count`: what is settled.
        unsettled: Units in ledgers of this machine that the row does not hold yet; negative when units came back.
        leased: Units that the row grants to workers and that are not settled.
        unknown: Units of leases whose ledger is not on this machine: another replica's, or lost with its machine.
        witnessed: What the witness saw; None when it was not asked.
        max_requests: The limit.
        silent_s: When a worker whose ledger is not here was last heard of, in seconds since 1970, if that is a while
            ago; None: there is none. It is another machine's, or lost: then an unlimited token's count lacks what it
            admitted after that, and a limited one's counts its slice as spent.
    """

    token_id: str
    counted: int
    unsettled: int
    leased: int
    unknown: int
    witnessed: int | None
    max_requests: int | None
    silent_s: float | None = None

    @property
    def charged(self) -> int:
        """What the token has been charged, as far as this machine knows."""
        return self.counted + self.unsettled

    @property
    def difference(self) -> int:
        """Charged less witnessed; 0 without a witness.

        Above zero: units that were noted and never sent, by workers that were killed, or slices of lost ones. Below
        zero, for an unlimited token: what lost workers admitted since their last sync. Else a fault.
        """
        return 0 if self.witnessed is None else self.charged - self.witnessed

    @property
    def is_over(self) -> bool:
        """Whether the provider saw more than the limit allows."""
        seen = self.charged if self.witnessed is None else self.witnessed
        return self.max_requests is not None and seen > self.max_requests


def noted(folder: Path) -> dict[str, list[Noted]]:
    """Return what the ledgers of this machine hold, by token id. Call it *before* the rows are read.

    A lease that is closed in between is then in the row; the other way round it would be in neither.

    Args:
        folder: `ledger.folder_of` this database; one that is not there holds nothing.
    """
    found: dict[str, list[Noted]] = {}
    for path in ledger.files(folder):
        for slot in ledger.read(path):
            found.setdefault(slot.token_id, []).append(slot)
    return found


def compare(
    rows: Iterable[Counted],
    ledgers: Mapping[str, list[Noted]],
    witness: Mapping[str, int] | None = None,
    *,
    now_s: float | None = None,
) -> list[Line]:
    """One line a token, by id.

    Args:
        ledgers: What was `noted` before the rows were read.
        witness: Requests by token id, in full; a token that is not in it was never seen.
        now_s: The database's time; None: no worker counts as silent.
    """
    found = [_line(row, ledgers.get(row.id, []), witness, now_s) for row in rows]
    return sorted(found, key=lambda line: line.token_id)


def _line(row: Counted, noted: list[Noted], witness: Mapping[str, int] | None, now_s: float | None) -> Line:
    entries = leases.parse(row.leases)
    unsettled = 0
    for slot in noted:
        entry = entries.pop(slot.lease, None)
        unsettled += 0 if entry is None else slot.spent - entry.settled
    held = leases.parse(row.leases).values()
    silent = [entry.seen_s for entry in entries.values() if now_s is not None and abs(now_s - entry.seen_s) > SILENT_S]
    return Line(
        row.id,
        row.request_count,
        unsettled,
        sum(entry.granted - entry.settled for entry in held),
        sum(entry.granted - entry.settled for entry in entries.values()),
        None if witness is None else witness.get(row.id, 0),
        row.max_requests,
        max(silent, default=None),
    )
