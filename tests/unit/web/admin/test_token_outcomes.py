"""How a token's requests ended: kinds, their plot, and what refusals mean."""

from datetime import UTC, datetime

from llm_proxy.web.admin import token_outcomes

NOW = datetime(2026, 3, 1, 0, 30, tzinfo=UTC)


def test_endings_are_grouped_by_kind() -> None:
    """A line for each kind that there was; a code that is not known is another kind."""
    rows = [
        {"hour": "2026-02-28T23:00:00Z", "code": "ok", "requests": 4},
        {"hour": "2026-02-28T23:00:00Z", "code": "cache_hit", "requests": 1},
        {"hour": "2026-03-01T00:00:00Z", "code": "cost_budget_exceeded", "requests": 2},
        {"hour": "2026-03-01T00:00:00Z", "code": "made_up", "requests": 9},
        {"hour": "2025-01-01T00:00:00Z", "code": "ok", "requests": 7},
    ]
    series = token_outcomes.plot(rows, NOW)["data"]["series"]
    assert [line["label"] for line in series] == ["Ok", "Over a limit", "Other"]
    assert [line["values"][-2:] for line in series] == [[5, 0], [0, 2], [0, 9]]
    assert token_outcomes.totals(rows)[0] == {"code": "ok", "kind": "Ok", "requests": 11}


def test_every_refusal_has_a_meaning() -> None:
    """Codes of tokens, projects and limits are explained in words."""
    for code in ("token_expired", "token_inactive", "project_inactive", "rate_limit_exceeded", "cost_budget_exceeded"):
        assert " " in token_outcomes.MEANINGS[code]
