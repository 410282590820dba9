"""Ids of projects in paths of the API, and their token counts in lists."""

from typing import Any

import pytest
from click.testing import CliRunner

from llm_proxy.cli import projects
from llm_proxy.cli.errors import CommandError
from llm_proxy.cli.references import segment


@pytest.mark.parametrize("identity", ["", "a/b", "..", "a b", "a?b", "a%2f"])
def test_ids_stay_one_segment(identity: str) -> None:
    """An id can't lead to another path of the API."""
    with pytest.raises(CommandError, match="no id"):
        segment(identity)


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ({"tokens": {"count": 3, "is_more": False}}, "3"),
        ({"tokens": {"count": 10_000, "is_more": True}}, "10000+"),
        ({}, "-"),
    ],
    ids=["count", "more", "earlier-server"],
)
def test_a_list_tells_token_counts(told: dict[str, Any], shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of an earlier version, which knows no such parameter, is no failure."""
    project = {"id": "p", "name": "n", "api_key": "k", "is_active": True} | told
    project |= dict.fromkeys(("created_at", "updated_at"), "2026-01-01T00:00:00Z")
    server = type("Server", (), {"call": staticmethod(lambda *asked, query: [project])})
    monkeypatch.setattr(projects, "client", server)
    result = CliRunner().invoke(projects.list_projects, ["--token-counts"])
    assert result.exit_code == 0, result.output
    assert shown in result.stdout.splitlines()[-1].split()
