"""Cache hits and times of use that wait to be written."""

from contextlib import AbstractContextManager

from llm_proxy.accounting.rows import Rows, Use

_BATCH = 200  # rows of one write


class PendingUses:
    """Uses by token, written behind.

    Args:
        guard: Held while they change.
    """

    def __init__(self, guard: AbstractContextManager[object]) -> None:
        self._guard = guard
        self._uses: dict[str, Use] = {}

    def __len__(self) -> int:
        return len(self._uses)

    def add(self, token_id: str, *, hits: int = 0, used_s: float | None = None) -> None:
        """Record hits, or when a token was used; None: its ledger shows that."""
        with self._guard:
            use = self._uses.setdefault(token_id, Use())
            use.hits += hits
            if used_s is not None:
                use.used_s = used_s

    def write(self, rows: Rows) -> None:
        """Write all; what could not be written stays."""
        with self._guard:
            taken, self._uses = self._uses, {}
        ids = sorted(taken)
        try:
            while ids:
                rows.add({id_: taken[id_] for id_ in ids[:_BATCH]})
                del ids[:_BATCH]
        finally:
            for id_ in ids:
                self._restore(id_, taken[id_])

    def _restore(self, token_id: str, use: Use) -> None:
        with self._guard:
            later = self._uses.setdefault(token_id, Use())
            later.hits += use.hits
            if later.used_s is None:
                later.used_s = use.used_s
