"""Traffic by hour: what exchanges came to, added up in memory by project and written to the database in batches.

One row more an hour holds the sums of all projects, so that an overview reads a row an hour. A batch whose COMMIT was
not confirmed is written again: these sums show trends, they bill nothing.
"""

import logging
import threading
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Final

from sqlalchemy import Engine

from llm_proxy.accounting.outcomes import HIT, LOCAL_304, Row
from llm_proxy.db.errors import WriteFailures
from llm_proxy.db.models.traffic import BOUNDS_MS, SUMMED, TRAFFIC
from llm_proxy.db.session import write_transaction
from llm_proxy.forwarding.exchange import Exchange
from llm_proxy.operations.hourly import ADDED, HOUR_S, instant_of, upsert
from llm_proxy.runtime.clock import utc_now

ALL: Final = ""  # project_id of the row that holds the sums of all projects
_ROWS_AT_ONCE: Final = 100  # of one transaction
_MOST_KEYS: Final = 20_000  # kept while the database is unavailable
_AT: Final = {name: place for place, name in enumerate(SUMMED)}
_REQUESTS, _ERRORS, _REFUSED = _AT["requests"], _AT["errors"], _AT["refused"]
_HITS, _MISSES = _AT["cache_hits"], _AT["cache_misses"]
_PROMPT, _COMPLETION, _COST = _AT["prompt_tokens"], _AT["completion_tokens"], _AT["cost_nano_usd"]
_FIRST_BYTE, _DURATION = _AT["first_byte_0"], _AT["duration_0"]
_BOUNDS_S: Final = tuple(bound / 1000 for bound in BOUNDS_MS)
_log = logging.getLogger(__name__)

Key = tuple[str, int]  # project_id, hour since 1970


class Traffic:
    """A worker's sums. `report` and `spent` only add to numbers in memory."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._sums: dict[Key, list[int]] = {}
        self._rows: dict[Key, list[int]] = {}  # on their way to the database
        self._guard = threading.Lock()
        self._failures = WriteFailures(_log, "traffic could not be written, it is kept")

    def report(self, exchange: Exchange, row: Row, failure: BaseException | None) -> None:
        """Add an exchange that has ended. Latency is that of responses which were not refused."""
        if not row.is_counted:
            return
        request, timing = exchange.request, exchange.timing
        project_id = ALL if exchange.token is None else exchange.token.project_id
        is_hit = row is HIT or row is LOCAL_304
        with self._guard:
            sums = self._of((project_id, int(request.received_at) // HOUR_S))
            sums[_REQUESTS] += 1
            sums[_ERRORS] += row.is_error
            if is_hit:
                sums[_HITS] += 1
            elif exchange.lookup is not None:
                sums[_MISSES] += 1
            if row.is_rejected:
                sums[_REFUSED] += 1
                return
            sums[_DURATION + bisect_left(_BOUNDS_S, timing.ended_s - request.received_s)] += 1
            if timing.response_started_s:
                sums[_FIRST_BYTE + bisect_left(_BOUNDS_S, timing.response_started_s - request.received_s)] += 1

    def spent(self, project_id: str, prompt_tokens: int, completion_tokens: int, cost_nano_usd: int) -> None:
        """Add what exchanges of a project used, to the present hour."""
        with self._guard:
            sums = self._of((project_id, int(utc_now().timestamp()) // HOUR_S))
            sums[_PROMPT] += prompt_tokens
            sums[_COMPLETION] += completion_tokens
            sums[_COST] += cost_nano_usd

    def _of(self, key: Key) -> list[int]:
        found = self._sums.get(key)
        if found is None:
            found = self._sums[key] = [0] * len(SUMMED)
        return found

    def flush(self) -> bool:
        """Write what there is; what cannot be written now is kept. Never raises; returns whether all is written."""
        with self._guard:
            taken, self._sums = self._sums, {}
        merge(self._rows, with_all(taken))
        try:
            while self._rows:
                part = dict(sorted(self._rows.items())[:_ROWS_AT_ONCE])
                self._write(part)
                for key in part:
                    del self._rows[key]
        except Exception as error:
            self._keep(error)
            return False
        self._failures.worked()
        return True

    def _write(self, rows: Mapping[Key, Sequence[int]]) -> None:
        values = [
            {"project_id": project_id, "hour": instant_of(hour), **dict(zip(SUMMED, sums, strict=True))}
            for (project_id, hour), sums in rows.items()
        ]
        with write_transaction(self._engine) as connection:
            connection.execute(upsert(connection.dialect.name, TRAFFIC, dict.fromkeys(SUMMED, ADDED)), values)

    def _keep(self, error: Exception) -> None:
        self._failures.failed(error)
        for key in list(self._rows)[_MOST_KEYS:]:
            del self._rows[key]


def merge(rows: dict[Key, list[int]], more: Mapping[Key, list[int]]) -> None:
    """Add sums to those of the same project and hour."""
    for key, sums in more.items():
        kept = rows.get(key)
        rows[key] = list(sums) if kept is None else [one + other for one, other in zip(kept, sums, strict=True)]


def with_all(sums: Mapping[Key, list[int]]) -> dict[Key, list[int]]:
    """Return the sums of projects, and beside them those of all projects, with requests that belong to none."""
    rows: dict[Key, list[int]] = {}
    for (project_id, hour), found in sums.items():
        merge(rows, {(ALL, hour): found})
        if project_id != ALL:
            rows[project_id, hour] = found
    return rows
