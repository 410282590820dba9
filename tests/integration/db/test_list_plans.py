"""Lists are read in the order of an index, on each database."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, Select, insert, text
from support.databases import Database

from llm_proxy.audit.query import EXACT, AuditFilter, by_time
from llm_proxy.audit.record import AuditEvent
from llm_proxy.db.listing import Order
from llm_proxy.db.models import AuditRow, ProjectRow, TokenRow
from llm_proxy.projects import service as projects
from llm_proxy.tokens import service as tokens

NOW = datetime(2026, 6, 1, tzinfo=UTC)
ROWS = 2000  # fewer, and a server may read and sort the whole table, rightly
SELECTIVE = ("request_id", "correlation_id")  # a few rows each: sorting them is right
UNINDEXED = ("path",)  # too long for an index on two of the databases


def _orders() -> Iterator[tuple[str, Select[Any], Order]]:
    for descending in (False, True):
        for sort in tokens.SORTS:
            yield "tokens", tokens.TokenFilter().query(NOW), tokens.order_of(sort, descending=descending)
        for sort in projects.SORTS:
            yield "projects", projects.ProjectFilter().query(), projects.order_of(sort, descending=descending)
        of_project = tokens.TokenFilter(project_id="p0").query(NOW)
        yield "tokens of a project", of_project, tokens.order_of("created_at", descending=descending)
        for name in (None, *(name for name in EXACT if name not in SELECTIVE + UNINDEXED)):
            wanted = AuditFilter({} if name is None else {name: "success" if name == "outcome" else "x0"})
            yield f"audit by {name}", wanted.query(), by_time(descending=descending)


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


def _sorts(engine: Engine, query: Select[Any]) -> list[str]:
    """Return the steps of the plan that sort more than rows of equal value."""
    compiled = str(query.compile(engine, compile_kwargs={"literal_binds": True}))
    explain = "EXPLAIN QUERY PLAN " if engine.dialect.name == "sqlite" else "EXPLAIN "
    with engine.connect() as connection:
        rows = connection.exec_driver_sql(explain + compiled.replace("%", "%%")).all()
    plan = [" ".join(str(part) for part in row) for row in rows]
    return [step for step in plan if "TEMP B-TREE" in step or "Sort Key" in step or "filesort" in step]


@pytest.mark.parametrize("place", ["first", "behind a cursor", "by number"])
def test_no_list_is_sorted(ready_database: Database, place: str) -> None:
    """Each order and filter, from the first page, from a cursor and by number: nothing is sorted."""
    engine = ready_database.engine()
    _fill(engine)
    sorted_lists = {}
    for name, query, order in _orders():
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
