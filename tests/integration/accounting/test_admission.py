"""Quota and counts on each engine: never one too many, never one lost (DP-114, DP-117, DP-118, accounting A1, A2)."""

import multiprocessing
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from servers.databases import Database
from sqlalchemy import Engine, text

from llm_proxy.accounting.admission import ConditionalAdmission
from llm_proxy.db.bare import BareStatements
from llm_proxy.db.engine import create_engine
from llm_proxy.db.types import from_column, to_column
from llm_proxy.errors import QuotaExhausted, ServiceUnavailable, TokenExpired, TokenInactive, TokenNotFound
from llm_proxy.settings import Settings

_SPAWN = multiprocessing.get_context("spawn")


class Known:
    """A token as a caller knows it."""

    def __init__(self, id_: str, max_requests: int | None, request_count: int = 0) -> None:
        self.id, self.max_requests, self.request_count = id_, max_requests, request_count


def _token(engine: Engine, **values: Any) -> str:
    id_ = str(uuid.uuid4())
    row = {"id": id_, "token": id_.replace("-", "") * 2, "project_id": "p", **values}
    row = {k: to_column(engine.dialect.name, v) if isinstance(v, datetime) else v for k, v in row.items()}
    with engine.begin() as connection:
        if not connection.execute(text("SELECT 1 FROM projects")).first():
            connection.execute(text("INSERT INTO projects (id, name, api_key) VALUES ('p', 'p', 'k')"))
        names = ", ".join(row)
        connection.execute(text(f"INSERT INTO tokens ({names}) VALUES ({', '.join(':' + name for name in row)})"), row)
    return id_


def _row(engine: Engine, id_: str) -> Any:
    with engine.connect() as connection:
        return connection.execute(text("SELECT * FROM tokens WHERE id = :id"), {"id": id_}).mappings().one()


def _offer(values: dict[str, Any], id_: str, limit: int | None, calls: int, results: Any) -> None:
    engine = create_engine(Settings(**values))
    admission = ConditionalAdmission(BareStatements(engine))
    admitted = refused = 0
    for _ in range(calls):
        try:
            admission.sent(admission.take(Known(id_, limit)))
            admitted += 1
        except QuotaExhausted:
            refused += 1
    admission.close()
    engine.dispose()
    results.put((admitted, refused))


@pytest.mark.parametrize(("limit", "wanted"), [(100, 100), (400, 400), (None, 400)], ids=["N+300", "N", "unlimited"])
def test_exactly_n_over_four_processes(ready_database: Database, limit: int | None, wanted: int) -> None:
    """400 calls offered by 4 processes: exactly the limit is admitted, and the row says so."""
    engine = ready_database.engine()
    id_ = _token(engine, max_requests=limit)
    results = _SPAWN.Queue()
    callers = [_SPAWN.Process(target=_offer, args=(ready_database.values, id_, limit, 100, results)) for _ in range(4)]
    for caller in callers:
        caller.start()
    found = [results.get(timeout=90) for _ in callers]
    for caller in callers:
        caller.join(30)
    assert sum(admitted for admitted, _ in found) == wanted
    assert sum(refused for _, refused in found) == 400 - wanted
    assert _row(engine, id_)["request_count"] == wanted


def test_a_refused_call_names_its_reason(engine: Engine) -> None:
    """Gone, revoked, expired and used up are told apart, in this order, by a fresh read."""
    admission = ConditionalAdmission(BareStatements(engine))
    past = datetime.now(UTC) - timedelta(seconds=1)
    with pytest.raises(TokenNotFound):
        admission.take(Known("nobody", 5))
    with pytest.raises(TokenInactive):
        admission.take(Known(_token(engine, max_requests=5, is_active=False, expires_at=past), 5))
    with pytest.raises(TokenExpired):
        admission.take(Known(_token(engine, max_requests=5, expires_at=past, request_count=5), 5))
    with pytest.raises(QuotaExhausted):
        admission.take(Known(_token(engine, max_requests=5, request_count=5), 5))
    admission.close()


def test_a_unit_comes_back_once_and_only_unsent(engine: Engine) -> None:
    """A refund gives the unit to a later call; a second one, or one after the first byte, does nothing."""
    admission = ConditionalAdmission(BareStatements(engine))
    id_ = _token(engine, max_requests=1)
    unit = admission.take(Known(id_, 1))
    with pytest.raises(QuotaExhausted):
        admission.take(Known(id_, 1))
    admission.refund(unit)
    admission.refund(unit)
    assert _row(engine, id_)["request_count"] == 0
    spent = admission.take(Known(id_, 1))
    admission.sent(spent)
    admission.refund(spent)
    admission.close()
    assert _row(engine, id_)["request_count"] == 1


def test_every_update_adds_to_the_version_but_hits(engine: Engine) -> None:
    """Taking, refunding and counting move `lease_version`; a flush of cache hits with their time does too (MP-86a)."""
    admission = ConditionalAdmission(BareStatements(engine))
    id_ = _token(engine, max_requests=5)
    admission.refund(admission.take(Known(id_, 5)))
    assert _row(engine, id_)["lease_version"] == 2
    admission.take(Known(id_, None))
    admission.close()
    assert _row(engine, id_)["lease_version"] == 3


def test_counts_are_written_behind_in_one_go(engine: Engine) -> None:
    """Unlimited calls, hits and touches reach the row at the beat: counts add up, the time of use never goes back."""
    clock = [datetime(2026, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)]
    admission = ConditionalAdmission(BareStatements(engine), now=lambda: clock[0])
    used = _token(engine)
    touched = _token(engine, last_used_at=datetime(2026, 6, 1, tzinfo=UTC))
    for _ in range(5):
        admission.sent(admission.take(Known(used, None)))
    admission.refund(admission.take(Known(used, None)))
    admission.hit(Known(used, None))
    admission.touch(Known(touched, None))
    assert _row(engine, used)["request_count"] == 0
    admission.beat()
    row = _row(engine, used)
    assert (row["request_count"], row["cache_hit_count"]) == (5, 1)
    assert from_column(row["last_used_at"]) == clock[0]
    assert from_column(_row(engine, touched)["last_used_at"]) == datetime(2026, 6, 1, tzinfo=UTC)
    admission.beat()
    assert _row(engine, used)["request_count"] == 5
    admission.close()


def test_a_failed_flush_loses_nothing(engine: Engine) -> None:
    """Counts that could not be written are kept, merged with later ones, and written by the next beat."""
    failures: list[int] = []
    admission = ConditionalAdmission(BareStatements(engine), flush_failed=lambda: failures.append(1))
    id_ = _token(engine)
    admission.take(Known(id_, None))
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE tokens RENAME TO tokens_away"))
    admission.beat()
    admission.take(Known(id_, None))
    admission.beat()
    assert len(failures) == 2
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE tokens_away RENAME TO tokens"))
    admission.beat()
    assert _row(engine, id_)["request_count"] == 2
    admission.close()


def test_a_token_that_is_gone_spoils_no_batch(engine: Engine) -> None:
    """The others of its batch are written; what belongs to nobody is let go (DP-117)."""
    admission = ConditionalAdmission(BareStatements(engine))
    ids = [_token(engine) for _ in range(3)]
    for id_ in (*ids, "00000000-gone"):
        admission.take(Known(id_, None))
    admission.beat()
    assert [_row(engine, id_)["request_count"] for id_ in ids] == [1, 1, 1]
    assert admission._pending == {}
    admission.close()


def test_a_missing_database_is_503(engine: Engine) -> None:
    """A limited token is refused while the database does not answer as it should."""
    admission = ConditionalAdmission(BareStatements(engine))
    id_ = _token(engine, max_requests=1)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE tokens RENAME TO tokens_away"))
    with pytest.raises(ServiceUnavailable) as caught:
        admission.take(Known(id_, 1))
    assert caught.value.retry_after_s == 1
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE tokens_away RENAME TO tokens"))
    admission.take(Known(id_, 1))
    admission.close()


def test_peeking_costs_no_statement(engine: Engine) -> None:
    """What is known to be used up is refused from memory."""
    admission = ConditionalAdmission(BareStatements(engine))
    admission.peek(Known("x", None, 10**9))
    admission.peek(Known("x", 5, 4))
    with pytest.raises(QuotaExhausted):
        admission.peek(Known("x", 5, 5))
    admission.close()
