"""docs/reliability.md is the table of the fault tests."""

from pathlib import Path

import pytest
import yaml
from reliability_page import SOURCE, page

LINES = {"Database", "Redis", "Provider", "Target of the dispatcher"}
FAULTS = {"stopped", "killed", "frozen", "slow", "disk full", "half-open"}
PARTS = yaml.safe_load(SOURCE.read_text())


def test_the_page_is_up_to_date(checkout: Path) -> None:
    """The page in the repository equals the page made from the table."""
    text = (checkout / "docs" / "reliability.md").read_text()
    assert text == page(PARTS), "run: python tools/reliability_page.py docs/reliability.md"


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part["part"])
def test_each_cell_has_a_promise(part: dict[str, dict[str, str]]) -> None:
    """One sentence a cell; parts behind a line have every fault."""
    assert all(sentence.endswith(".") and "\n" not in sentence for sentence in part["cells"].values())
    assert str(part["part"]) not in LINES or set(part["cells"]) == FAULTS
