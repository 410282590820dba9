"""docs/adr/README.md lists every decision record under its area."""

from pathlib import Path

import pytest
from adr_index import index


def test_index_is_up_to_date(checkout: Path) -> None:
    """The index in the repository equals the index made from the records."""
    folder = checkout / "docs" / "adr"
    assert (folder / "README.md").read_text() == index(folder), "run: python tools/adr_index.py docs/adr"


def test_numbers_are_unique(checkout: Path) -> None:
    """No two records have the same number."""
    numbers = [record.name[:4] for record in (checkout / "docs" / "adr").glob("[0-9]*.md")]
    assert len(numbers) == len(set(numbers))


@pytest.mark.parametrize(
    "section", ["- Status: ", "- Date: 20", "## Context", "## Decision", "## Alternatives", "## Consequences"]
)
def test_records_have_one_form(checkout: Path, section: str) -> None:
    """Each record begins with number and title, and has status, date and the four sections."""
    records = sorted((checkout / "docs" / "adr").glob("[0-9]*.md"))
    assert [r.name for r in records if f"\n{section}" not in r.read_text()] == []
    assert [r.name for r in records if not r.read_text().startswith(f"# {r.name[:4]} ")] == []
