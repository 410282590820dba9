"""Lists whose conditions no index serves: page by page they hold the same rows as one query, on each database."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Select, insert, select
from support.databases import Database

from llm_proxy.db import pagination
from llm_proxy.db.models import ProjectRow, TokenRow
from llm_proxy.db.pagination import Order, Selection, Total
from llm_proxy.db.session import read_transaction
from llm_proxy.tokens.service import SORTS, TokenFilter, order_of

NOW = datetime(2026, 6, 1, tzinfo=UTC)
ROWS = 60
FILTERS = {
    "used up": TokenFilter(status="rate_limited"),
    "found": TokenFilter(search="Name-1"),
    "beyond ASCII": TokenFilter(search="ÄPFEL"),
    "of a project": TokenFilter(project_id="p1"),
    "of two projects, active": TokenFilter(within=frozenset({"p1", "p2"}), active_only=True),
    "active of a project": TokenFilter(project_id="p1", active_only=True),
    "nothing": TokenFilter(search="nothing"),
}


def _token(number: int) -> dict[str, Any]:
    at = NOW - timedelta(seconds=number // 3)  # instants that are equal
    return {
        "id": f"{number * 7 % ROWS:04d}",
        "token": f"{number:064d}",
        "project_id": f"p{number % 3}",
        "name": f"naME-{number}{' äpfel' if number % 4 == 0 else ''}",
        "is_active": number % 5 != 0,
        "created_at": at,
        "expires_at": NOW + timedelta(days=number % 4) if number % 3 else None,
        "last_used_at": at if number % 2 else None,
        "request_count": number % 6,
        "max_requests": 4 if number % 2 else None,
    }


@pytest.fixture
def connection(ready_database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connection]:
    """A database with tokens, and slices that are smaller than a page."""
    for name, value in {"SLICE": 4, "LEAST": 8, "LONGEST_S": 0.0, "NARROW": 10}.items():
        monkeypatch.setattr(pagination, name, value)
    engine = ready_database.engine()
    with engine.begin() as writing:
        named = {"api_key": "k", "is_active": True, "created_at": NOW, "updated_at": NOW}
        writing.execute(
            insert(ProjectRow), [{"id": f"p{number}", "name": f"n{number}", **named} for number in range(3)]
        )
        writing.execute(insert(TokenRow), [_token(number) for number in range(ROWS)])
    with read_transaction(engine) as reader:
        yield reader


def _orders() -> list[Order]:
    return [order_of(sort, descending=descending) for sort in SORTS for descending in (False, True)]


def _all(connection: Connection, selection: Selection, order: Order) -> list[str]:
    parts: list[Select[Any]] = order.parts(selection.whole)
    return [row_id for part in parts for row_id in connection.execute(part.with_only_columns(order.id)).scalars()]


def test_cursors_lead_to_every_row_once(connection: Connection) -> None:
    """Also where pages are short or empty, in each order and both directions."""
    for name, wanted, order in ((name, wanted, order) for name, wanted in FILTERS.items() for order in _orders()):
        selection, cursor, found = wanted.selection(NOW, order), None, list[str]()
        for _ in range(ROWS):
            rows, cursor = pagination.keyed(connection, selection, order, 5, cursor)
            found += [row["id"] for row in rows]
            assert len(rows) <= 5
            if cursor is None:
                break
        assert found == _all(connection, selection, order), (name, order.name)


def test_pages_by_number_and_totals_are_exact(connection: Connection) -> None:
    """Every page holds its rows, and each tells how many there are."""
    for name, wanted, order in ((name, wanted, order) for name, wanted in FILTERS.items() for order in _orders()[::3]):
        selection = wanted.selection(NOW, order)
        expected = _all(connection, selection, order)
        for page in (1, 2, 4):
            rows, total = pagination.numbered(connection, selection, order, page, 6)
            assert [row["id"] for row in rows] == expected[(page - 1) * 6 : page * 6], (name, order.name)
            assert total == Total(len(expected))


def test_a_bounded_total_says_that_there_is_more(connection: Connection) -> None:
    """Of rows that an index serves it is the bound; of judged rows those that were found before it."""
    order = order_of("created_at", descending=True)
    rows, total = pagination.numbered(connection, TokenFilter().selection(NOW, order), order, 2, 6, most=20)
    assert (len(rows), total, str(total)) == (6, Total(20, is_more=True), "20+")
    judged = TokenFilter(status="revoked").selection(NOW, order)
    _, total = pagination.numbered(connection, judged, order, 1, 6, most=24)
    assert total == Total(5, is_more=True)  # every fifth of the first 24
    _, total = pagination.numbered(connection, judged, order, 1, 6, most=100)
    assert total == Total(12)


def test_a_page_ends_although_nothing_was_found(connection: Connection) -> None:
    """After LEAST rows and LONGEST_S; its cursor leads on."""
    order = order_of("created_at", descending=True)
    rows, cursor = pagination.keyed(connection, FILTERS["nothing"].selection(NOW, order), order, 5, None)
    assert (rows, cursor is None) == ([], False)


def test_the_beginning_of_an_id_is_a_range(connection: Connection) -> None:
    """It finds ids that begin with it, and no others."""
    query = select(TokenRow.id).where(pagination.begins(TokenRow.__table__.c.id, "000"))
    assert sorted(connection.execute(query).scalars()) == [f"000{digit}" for digit in range(10)]
