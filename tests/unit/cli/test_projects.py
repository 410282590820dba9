"""Ids of projects in paths of the API."""

import pytest

from llm_proxy.cli.errors import CommandError
from llm_proxy.cli.references import segment


@pytest.mark.parametrize("identity", ["", "a/b", "..", "a b", "a?b", "a%2f"])
def test_ids_stay_one_segment(identity: str) -> None:
    """An id can't lead to another path of the API."""
    with pytest.raises(CommandError, match="no id"):
        segment(identity)
