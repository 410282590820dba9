"""Lists are read in the order of an index, on each database."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, Select, insert, select, text
from support.databases import Database

from llm_proxy.audit.query import EXACT, AuditFilter, by_time
from llm_proxy.audit.record import AuditEvent
from llm_proxy.db import pagination
from llm_proxy.db.models import AuditRow, ProjectRow, TokenRow
from llm_proxy.db.pagination import Order, Selection
from llm_proxy.db.session import read_transaction
from llm_proxy.housekeeping import still_active
from llm_proxy.model.token import passed_expiry
from llm_proxy.projects import service as projects
from llm_proxy.tokens import service as tokens

NOW = datetime(2026, 6, 1, tzinfo=UTC)
ROWS = 2000  # fewer, and a server may read and sort the whole table, rightly
SELECTIVE = ("request_id", "correlation_id")  # a few rows each: sorting them is right
JUDGED = (tokens.TokenFilter(status="rate_limited"), tokens.TokenFilter(status="expired", search="x"))


def _orders() -> Iterator[tuple[str, Selection, Order]]:
    for descending in (False, True):
        for sort in tokens.SORTS:
            order = tokens.order_of(sort, descending=descending)
            for wanted in (tokens.TokenFilter(), *JUDGED):
                yield f"tokens {wanted.status}", wanted.selection(NOW, order), order
        for sort in projects.SORTS:
            order = projects.order_of(sort, descending=descending)
            yield "projects", projects.ProjectFilter().selection(), order
            yield "projects found", projects.ProjectFilter(search="x", is_active=True).selection(), order
        order = tokens.order_of("created_at", descending=descending)
        yield "tokens of a project", tokens.TokenFilter(project_id="p0").selection(NOW, order), order
        for name in (None, *(name for name in EXACT if name not in SELECTIVE)):
            audit = AuditFilter({} if name is None else {name: "success" if name == "outcome" else "x0"})
            yield f"audit by {name}", audit.selection(), by_time(descending=descending)
        yield "audit found", AuditFilter({"action": "x0", "actor": "x0"}, "x").selection(), by_time()


def _fill(engine: Engine) -> None:
    times = [NOW - timedelta(seconds=number) for number in range(ROWS)]
    named = [{"id": f"p{number}", "name": f"n{number}", "api_key": "k", "is_active": True} for number in range(ROWS)]
    dated = [{**row, "created_at": at, "updated_at": at} for row, at in zip(named, times, strict=True)]
    issued = [
        {"id": f"t{number}", "token": f"{number:064d}", "project_id": f"p{number % 2}", "is_active": True,
         "created_at": at, "expires_at": at if number % 3 else None, "last_used_at": at if number % 5 else None}
        for number, at in enumerate(times)
    ]  # fmt: skip
    recorded = [_record(number, at) for number, at in enumerate(times)]
    with engine.begin() as connection:
        connection.execute(insert(ProjectRow), dated)
        connection.execute(insert(TokenRow), issued)
        connection.execute(insert(AuditRow), recorded)
    verb = {"sqlite": "ANALYZE", "postgresql": "ANALYZE"}.get(engine.dialect.name)
    verbs = [verb] if verb else [f"ANALYZE TABLE {table}" for table in ("projects", "tokens", "audit_events")]
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in verbs:
            connection.execute(text(statement)).close()


def _record(number: int, at: datetime) -> dict[str, Any]:
    details = {"http_method": f"x{number % 2}", "token_id": f"x{number % 2}", "endpoint": "/x"}
    same = f"x{number % 2}"
    event = AuditEvent(same, same, "success", project_id=same, client_ip=same, timestamp=at, details=details)
    return event.row()


def _plan(engine: Engine, query: Select[Any]) -> list[str]:
    """Return the steps of the plan; PostgreSQL is kept from reading a small table whole, which is right there."""
    compiled = str(query.compile(engine, compile_kwargs={"literal_binds": True}))
    explain = "EXPLAIN QUERY PLAN " if engine.dialect.name == "sqlite" else "EXPLAIN "
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        rows = connection.exec_driver_sql(explain + compiled.replace("%", "%%")).all()
    return [" ".join(str(part) for part in row) for row in rows]


def _sorts(engine: Engine, query: Select[Any]) -> list[str]:
    """Return the steps of the plan that sort more than rows of equal value."""
    plan = _plan(engine, query)
    return [step for step in plan if "TEMP B-TREE" in step or "Sort Key" in step or "filesort" in step]


@pytest.mark.parametrize("place", ["first", "behind a cursor", "by number"])
def test_no_list_is_sorted(ready_database: Database, place: str) -> None:
    """Each order and filter, from the first page, from a cursor and by number: nothing is sorted."""
    engine = ready_database.engine()
    _fill(engine)
    sorted_lists = {}
    for name, selection, order in _orders():
        query = selection.query  # what is judged is judged slice by slice
        if place == "behind a cursor":
            value = 5 if order.name == "request_count" else "n5" if order.name == "name" else NOW - timedelta(hours=9)
            parts = order.after(query, value, "t5")
        else:
            parts = order.parts(query)
        for part in parts:
            if place == "by number" or engine.dialect.name == "mysql":
                part = part.with_only_columns(order.id)  # MariaDB reads and sorts small tables, rightly
            if place == "by number":
                part = part.offset(50)
            if steps := _sorts(engine, part.limit(20)):
                sorted_lists[name, order.name, order.descending] = steps
    assert sorted_lists == {}


def test_a_slice_is_read_from_an_index(ready_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is judged row by row is judged for the rows of the slice alone."""
    engine = ready_database.engine()
    _fill(engine)
    monkeypatch.setattr(pagination, "SLICE", 100)
    scans = {}
    for name, selection, order in _orders():
        if not selection.judged:
            continue
        with read_transaction(engine) as connection:
            part = order.parts(selection.query)[0]
            end = pagination._last_of_slice(connection, part, order)
        assert end is not None, name
        found = order.up_to(part, end).where(selection.judgement)
        if steps := [step for step in _plan(engine, found.limit(20)) if _is_scan(step)]:
            scans[name, order.name, order.descending] = steps
    assert scans == {}


def test_the_rows_of_a_page_are_read_by_id(ready_database: Database) -> None:
    """Not by the filter that has found them."""
    engine = ready_database.engine()
    _fill(engine)
    for name, _, order in _orders():
        plan = " ".join(_plan(engine, pagination.of_ids(order, ["t1", "t2"])))
        assert "autoindex" in plan or "pk_" in plan or "PRIMARY" in plan, (name, plan)


def test_a_batch_of_housekeeping_is_found_by_id(ready_database: Database) -> None:
    """However many other tokens have expired."""
    engine = ready_database.engine()
    _fill(engine)
    query = select(TokenRow.id).where(*still_active(["t1", "t2"], passed_expiry(NOW)))
    plan = " ".join(_plan(engine, query))
    assert "autoindex" in plan or "pk_" in plan or "PRIMARY" in plan, plan


def _is_scan(step: str) -> bool:
    """Whether a step of a plan reads a whole table."""
    words = step.split()
    return "Seq" in words or "ALL" in words or ("SCAN" in words and "INDEX" not in words)
