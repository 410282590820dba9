"""How requests end: counted in memory by token, hour and code, and written to the database in batches.

A count that was written and whose COMMIT was not confirmed is written again: these sums show trends, they bill nothing.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import gevent
from sqlalchemy import Connection, Engine

from llm_proxy.accounting.outcomes import HIT, LOCAL_304, Row
from llm_proxy.db.errors import WriteFailures
from llm_proxy.db.models import OutcomeRow, RefusalRow
from llm_proxy.db.session import write_transaction
from llm_proxy.errors import AuthenticationError
from llm_proxy.forwarding.exchange import Exchange
from llm_proxy.forwarding.reporters import rejection_code
from llm_proxy.operations.hourly import ADDED, HOUR_S, REPLACED, instant_of, upsert
from llm_proxy.redaction import REDACTOR

FLUSH_S: Final = 2.0
_ROWS_AT_ONCE: Final = 200  # of one transaction
_MOST_KEYS: Final = 100_000  # kept while the database is unavailable
_LAST_LIMIT_S: Final = 2.0
_REQUEST_ID_LENGTH: Final = 128  # of the column
_OUTCOMES: Any = OutcomeRow.__table__
_REFUSALS: Any = RefusalRow.__table__
_log = logging.getLogger(__name__)


class Key(NamedTuple):
    """A row of outcomes_hourly; `hour` in hours since 1970."""

    hour: int
    project_id: str
    token_id: str
    code: str


class Refusal(NamedTuple):
    """The last refusal of a token with a code, and how many there were."""

    project_id: str
    refused_at_s: float
    request_id: str
    number: int


def code_of(row: Row, failure: BaseException | None) -> str:
    """Return the code that an ending counts under: of the refusal, of the event, or of what the cache did."""
    if row.is_rejected:
        return rejection_code(row, failure)
    if row is HIT or row is LOCAL_304:
        return "cache_hit"
    return row.event or "client_disconnect"


class Outcomes:
    """A worker's counts. `report` only adds to numbers in memory.

    Args:
        also: Writes further sums at each flush; returns whether all of them are written.
    """

    def __init__(self, engine: Engine, *, also: Callable[[], bool] = lambda: True) -> None:
        self._engine, self._also = engine, also
        self._counts: dict[Key, int] = {}
        self._refusals: dict[tuple[str, str], Refusal] = {}
        self._greenlet: gevent.Greenlet | None = None
        self._guard, self._writes = threading.Lock(), threading.Lock()
        self._failures = WriteFailures(_log, "outcomes could not be written, they are kept")

    def report(self, exchange: Exchange, row: Row, failure: BaseException | None) -> None:
        """Count an exchange that has ended."""
        token, code = exchange.token, code_of(row, failure)
        project_id = token_id = ""
        if token is not None:
            project_id, token_id = token.project_id, token.id
        elif isinstance(failure, AuthenticationError) and failure.token_id is not None:
            project_id, token_id = failure.project_id or "", failure.token_id
        at_s = exchange.request.received_at
        key = Key(int(at_s) // HOUR_S, project_id, token_id, code)
        self._counts[key] = self._counts.get(key, 0) + 1
        if row.is_rejected and token_id:
            before = self._refusals.get((token_id, code))
            number = 1 if before is None else before.number + 1
            self._refusals[token_id, code] = Refusal(project_id, at_s, exchange.request.request_id, number)

    def start(self) -> None:
        """Write in a greenlet of this worker."""
        self._greenlet = gevent.spawn(self._run)

    def flush(self) -> bool:
        """Write what there is; what cannot be written now is kept. Never raises; returns whether all is written."""
        with self._writes:
            return all([self._flush(), self._also()])

    def _flush(self) -> bool:
        with self._guard:
            counts, self._counts = self._counts, {}
            refusals, self._refusals = self._refusals, {}
        try:
            self._write(counts, refusals)
        except Exception as error:
            self._keep(error, counts, refusals)
            return False
        self._failures.worked()
        return True

    def close(self) -> None:
        """Write for the last time; a database that does not answer is waited for two seconds at most."""
        if self._greenlet is not None:
            self._greenlet.kill()
        with gevent.Timeout(_LAST_LIMIT_S, False):
            while not self.flush():
                time.sleep(0.2)

    def _run(self) -> None:
        while True:
            gevent.sleep(FLUSH_S)
            self.flush()

    def _write(self, counts: dict[Key, int], refusals: dict[tuple[str, str], Refusal]) -> None:
        """Write in transactions of a bounded size; each part that is committed leaves the dictionaries."""
        while counts or refusals:
            keys, pairs = sorted(counts)[:_ROWS_AT_ONCE], sorted(refusals)[:_ROWS_AT_ONCE]
            with write_transaction(self._engine) as connection:
                if keys:
                    _add_outcomes(connection, {key: counts[key] for key in keys})
                if pairs:
                    _add_refusals(connection, {pair: refusals[pair] for pair in pairs})
            for key in keys:
                del counts[key]
            for pair in pairs:
                del refusals[pair]

    def _keep(self, error: Exception, counts: Mapping[Key, int], refusals: Mapping[tuple[str, str], Refusal]) -> None:
        self._failures.failed(error)
        with self._guard:
            for key, number in counts.items():
                if len(self._counts) < _MOST_KEYS:
                    self._counts[key] = self._counts.get(key, 0) + number
            for pair, refusal in refusals.items():
                newer = self._refusals.get(pair)
                if newer is not None:
                    self._refusals[pair] = newer._replace(number=newer.number + refusal.number)
                elif len(self._refusals) < _MOST_KEYS:
                    self._refusals[pair] = refusal


def _add_outcomes(connection: Connection, counts: Mapping[Key, int]) -> None:
    rows = [{**key._asdict(), "hour": instant_of(key.hour), "requests": number} for key, number in counts.items()]
    connection.execute(upsert(connection.dialect.name, _OUTCOMES, {"requests": ADDED}), rows)


def _add_refusals(connection: Connection, refusals: Mapping[tuple[str, str], Refusal]) -> None:
    rows = [
        {
            "token_id": token_id,
            "code": code,
            "project_id": refusal.project_id,
            "refused_at": datetime.fromtimestamp(refusal.refused_at_s, UTC),
            "request_id": REDACTOR.text(refusal.request_id)[:_REQUEST_ID_LENGTH],  # a client may put a key there
            "refusals": refusal.number,
        }
        for (token_id, code), refusal in refusals.items()
    ]
    changes = {"refusals": ADDED, "refused_at": REPLACED, "request_id": REPLACED}
    connection.execute(upsert(connection.dialect.name, _REFUSALS, changes), rows)
