"""Names and beginnings of ids in place of whole ids."""

from typing import Any

import pytest

from llm_proxy.cli.errors import CommandError
from llm_proxy.cli.references import audit_id, project_id, segment, token_id

ONE, TWO = "3f6a2c1e-0000-4000-8000-000000000001", "3f6a9999-0000-4000-8000-000000000002"


class _Api:
    """Two projects and two tokens of the same ids."""

    def call(self, method: str, path: str, *, body: Any = None, query: Any = None) -> Any:
        """Return what the list of projects or tokens would hold."""
        found = [{"id": ONE, "name": "my-team"}, {"id": TWO, "name": "3f6a2"}]
        return [one for one in found if one["id"].startswith((query or {}).get("search", ""))]


@pytest.mark.parametrize(
    ("written", "identity"),
    [("my-team", ONE), (ONE, ONE), ("3f6a9", TWO), ("3f6a2", TWO), ("nothing", "nothing"), ("3f", "3f")],
)
def test_a_project_by_name_or_beginning(written: str, identity: str) -> None:
    """A name wins over a beginning; what is neither goes to the server as written."""
    assert project_id(_Api(), written) == identity


def test_a_token_by_beginning() -> None:
    """The beginning has to be of one token alone."""
    assert token_id(_Api(), "3f6a2c1e") == ONE
    with pytest.raises(CommandError, match="3f6a is the beginning of 2 tokens"):
        token_id(_Api(), "3f6a")


@pytest.mark.parametrize("written", ["", "a/b", "..", "a b"])
def test_what_is_no_segment_is_refused(written: str) -> None:
    """An id never becomes another path."""
    with pytest.raises(CommandError, match="is no id"):
        segment(written)


def test_an_audit_record_by_beginning() -> None:
    """A table on a terminal shows the beginning of its id."""

    class _Newest:
        def call(self, method: str, path: str, *, body: Any = None, query: Any = None) -> Any:
            """Return the newest records."""
            return {"events": [{"id": ONE}, {"id": TWO}]}

    assert audit_id(_Newest(), "3f6a9999") == TWO
    assert audit_id(_Newest(), "ffff") == "ffff"
