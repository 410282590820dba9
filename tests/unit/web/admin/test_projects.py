"""Rows of the list of projects."""

from typing import Any

import pytest

from llm_proxy.web.admin.projects import _counted


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ({"tokens": {"count": 3, "is_more": False}}, "3"),
        ({"tokens": {"count": 10_000, "is_more": True}}, "10,000+"),
        ({}, None),
    ],
    ids=["count", "more", "earlier-proxy"],
)
def test_token_counts_are_text(told: dict[str, Any], shown: str | None) -> None:
    """The UI's own process may be newer than the proxy while both are rolled out."""
    assert _counted([{"id": "p", **told}]) == [{"id": "p", "token_count": shown}]
