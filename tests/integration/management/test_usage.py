"""/manage/usage on each database."""

import csv
import io
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any
from urllib.parse import urljoin

import pytest
from integration.management.conftest import Manager
from support.usage_sums import sums_of

from llm_proxy.errors import CostBudgetExceeded
from llm_proxy.formats.usage import Usage
from llm_proxy.model.project import ProjectSnapshot
from llm_proxy.model.token import TokenSnapshot
from llm_proxy.runtime.clock import utc_now
from llm_proxy.usage.rollup import Key

DAYS = (date(2026, 1, 31), date(2026, 2, 1))
MODELS = ("ä-model", "gpt-4o", "not-priced")


@pytest.fixture
def used(manage: Manager) -> Iterator[tuple[Manager, dict[str, Any]]]:
    """A manager, and a token that used three models on two days."""
    project = manage.project()
    token = manage.token(project["id"])
    rollup = manage.app.services.rollup
    for day in DAYS:
        for number, model in enumerate(MODELS, 1):
            cost = None if model == "not-priced" else number * 1_000_000
            usage = Usage(10 * number, number, number, 0, is_estimated=number == 1)
            provider = "azure" if model == "gpt-4o" and day == DAYS[0] else "openai"
            rollup.add(Key(day, project["id"], token["id"], model, provider), sums_of(usage, cost))
    assert rollup.flush()
    yield manage, {**token, "project_id": project["id"]}
    manage.app.services.statements.close()


def _rows(manage: Manager, query: str) -> list[dict[str, Any]]:
    response = manage.call("GET", f"/usage?from=2026-01-01&to=2026-12-31&{query}")
    assert response.status_code == 200, response.text
    rows: list[dict[str, Any]] = response.get_json()["data"]
    return rows


def test_sums_of_everything(used: tuple[Manager, dict[str, Any]]) -> None:
    """Without group_by one row; unknown costs are left out of the sum."""
    assert _rows(used[0], "") == [
        {
            "requests": 6,
            "prompt_tokens": 120,
            "completion_tokens": 12,
            "cached_tokens": 12,
            "reasoning_tokens": 0,
            "cost_usd": 0.006,
            "estimated": 2,
        }
    ]


def test_sums_by_group(used: tuple[Manager, dict[str, Any]]) -> None:
    """Each group by its own name, and by that of its filter; ordered by the groups."""
    manage, token = used
    rows = _rows(manage, "group_by=project,token,model")
    assert [row["model"] for row in rows] == sorted(MODELS)
    assert {(row["project"], row["project_id"]) for row in rows} == {(token["project_id"],) * 2}
    assert {(row["token"], row["token_id"]) for row in rows} == {(token["id"],) * 2}
    assert {row["model"]: row["cost_usd"] for row in rows} == {"ä-model": 0.002, "gpt-4o": 0.004, "not-priced": None}
    by_day = _rows(manage, "group_by=day&model=gpt-4o")
    assert [(row["day"], row["requests"]) for row in by_day] == [(day.isoformat(), 1) for day in DAYS]


def test_sums_by_provider(used: tuple[Manager, dict[str, Any]]) -> None:
    """The same model of two providers is told apart, as a group and by the filter."""
    manage, _ = used
    rows = _rows(manage, "group_by=provider,model&model=gpt-4o")
    assert [(row["provider"], row["requests"]) for row in rows] == [("azure", 1), ("openai", 1)]
    assert [row["requests"] for row in _rows(manage, "provider=azure")] == [1]


@pytest.mark.parametrize("groups", ["provider,day", "model,day", "day,model", "day", "token,day,model"])
def test_pages_hold_each_row_once(used: tuple[Manager, dict[str, Any]], groups: str) -> None:
    """Keyset by the groups, two at a time; the Link leads on as the cursor does."""
    manage, _ = used
    whole = _rows(manage, f"group_by={groups}")
    found, path = list[Any](), f"/usage?from=2026-01-01&to=2026-12-31&group_by={groups}&limit=2"
    while path:
        response = manage.call("GET", path)
        page = response.get_json()
        found += page["data"]
        assert len(page["data"]) <= 2
        link = response.headers.get("Link", "")
        assert bool(link) == (page["next_cursor"] is not None)
        path = urljoin(path, link[1 : link.find(">")]) if link else ""
    assert found == whole


def test_a_period_is_of_whole_days(used: tuple[Manager, dict[str, Any]]) -> None:
    """Both ends included; an instant stands for its day."""
    manage, _ = used
    for period, requests in (
        ("from=2026-02-01&to=2026-02-01", 3),
        ("from=2026-02-01T23:00:00Z&to=2026-02-28", 3),
        ("from=2025-01-01&to=2026-01-31T00:00:00Z", 3),
        ("from=2026-02-02&to=2026-02-03", 0),
        ("to=2026-02-15", 6),
    ):
        assert manage.call("GET", f"/usage?{period}").get_json()["data"][0]["requests"] == requests


def test_csv_has_a_line_a_row(used: tuple[Manager, dict[str, Any]]) -> None:
    """With a header; an unknown cost is empty."""
    manage, _ = used
    response = manage.call("GET", "/usage?from=2026-01-01&to=2026-12-31&group_by=model&format=csv")
    assert response.content_type == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert [(row["model"], row["cost_usd"]) for row in rows] == [
        ("gpt-4o", "0.004"),
        ("not-priced", ""),
        ("ä-model", "0.002"),
    ]


@pytest.mark.parametrize(
    "query",
    ["group_by=colour", "group_by=day,day", "format=xml", "from=x", "from=2026-02-01&to=2026-01-01", "limit=101",
     "cursor=bm9uZQ", "group_by=day&cursor=x"],
)  # fmt: skip
def test_what_is_wrong_is_named(manage: Manager, query: str) -> None:
    """400 with the parameter."""
    response = manage.call("GET", f"/usage?{query}")
    assert response.status_code == 400
    assert (query.rpartition("&")[2] if "cursor" in query else query).partition("=")[0] in response.get_json()["error"]


def test_totals_of_tokens_and_months_of_projects_follow(used: tuple[Manager, dict[str, Any]]) -> None:
    """The row's totals are shown; the month's sum is judged by the calendar."""
    manage, token = used
    shown = manage.call("GET", f"/tokens/{token['id']}").get_json()
    assert (shown["total_tokens"], shown["total_cost_usd"]) == (132, 0.006)
    project = ProjectSnapshot(token["project_id"], is_active=True, api_key=None, max_cost_nano_usd_per_month=3_000_000)
    facts = TokenSnapshot(
        id=token["id"],
        hint="",
        project_id=project.id,
        is_active=True,
        expires_at=None,
        max_requests=None,
        request_count=0,
        created_at=utc_now(),
        project=project,
    )
    services = manage.app.services
    services.budgets._today = lambda: DAYS[0]
    with pytest.raises(CostBudgetExceeded):
        services.budgets.check_project(facts)
    services.budgets._today = lambda: DAYS[1] + timedelta(days=28)
    services.budgets.check_project(facts)
    services.budgets._today = lambda: utc_now().date()
