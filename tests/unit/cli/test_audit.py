"""Cells of an exported audit trail."""

import pytest

from llm_proxy.cli.audit import plain_cell


@pytest.mark.parametrize(
    ("value", "cell"),
    [("=1+1", "'=1+1"), ("@x", "'@x"), ("-1", "'-1"), ("+1", "'+1"), ("\tx", "'\tx"), ("a=b", "a=b"), (None, "")],
)
def test_formulas_stay_text(value: str | None, cell: str) -> None:
    """What a client sent may begin like a formula; a spreadsheet must not run it."""
    assert plain_cell(value) == cell
