"""Recover the ledgers of dead workers. Any worker may run this; each ledger is settled exactly once."""

import logging
from collections.abc import Iterator
from pathlib import Path

from llm_proxy import metrics
from llm_proxy.accounting import leases, ledger
from llm_proxy.accounting.ledger import DeadLedger, Noted
from llm_proxy.accounting.rows import Rows, Swap
from llm_proxy.model.token import TokenSnapshot

_LOG = logging.getLogger(__name__)
_AT_ONCE = 500  # tokens read in one statement
_ATTEMPTS = 20  # at a row that others change all the time


class LedgerRecovery:
    """The other ledgers of a folder.

    The arbiter of "once" is the swap that removes the lease's key: locks and unlinking only save work.

    Args:
        own: The ledger of this process.
    """

    def __init__(self, folder: Path, own: Path, rows: Rows) -> None:
        self._folder, self._own, self._rows = folder, own, rows

    def settle(self) -> int:
        """Settle every ledger whose owner is dead; those of stopped owners are locked and left alone.

        Returns:
            Ledgers that are done and gone.

        Raises:
            Exception: The driver's errors; what was not settled stays for the next time.
        """
        done = 0
        for path in ledger.files(self._folder):
            if path == self._own:
                continue
            dead = DeadLedger.take(path)
            if dead is None:
                continue
            try:
                is_done = self._settle(dead)
            except BaseException:
                dead.release()
                raise
            if is_done:
                dead.remove()
                done += 1
            else:
                dead.release()
        return done

    def _settle(self, dead: DeadLedger) -> bool:
        noted = dead.noted()
        settled = [self._settle_slot(dead, slot, row) for slot, row in self._with_rows(noted)]
        _LOG.info("settled %d of %d tokens of a dead worker", sum(settled), len(noted))
        return all(settled)

    def _with_rows(self, noted: list[Noted]) -> Iterator[tuple[Noted, TokenSnapshot | None]]:
        for start in range(0, len(noted), _AT_ONCE):
            part = noted[start : start + _AT_ONCE]
            rows = self._rows.read([slot.token_id for slot in part])
            yield from ((slot, rows.get(slot.token_id)) for slot in part)

    def _settle_slot(self, dead: DeadLedger, slot: Noted, row: TokenSnapshot | None) -> bool:
        for _ in range(_ATTEMPTS):
            plan = None if row is None else leases.without(row, slot.lease, slot.spent)
            if row is None or plan is None:  # never opened, closed, or forgotten: nothing is owed
                dead.clear(slot.at)
                return True
            if self._rows.swap(Swap(slot.token_id, row.lease_version, plan, slot.last_used_s or None)):
                metrics.count_settled("recovered", plan.delta)
                dead.clear(slot.at)  # only now: a worker that is killed before this does it again, to no effect
                return True
            row = self._rows.read([slot.token_id]).get(slot.token_id)
        return False
