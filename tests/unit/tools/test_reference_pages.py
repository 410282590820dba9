"""docs/reference pages say what the code says."""

from pathlib import Path

import pytest
from reference_pages import PAGES

HOW = "run: python tools/reference_pages.py docs/reference"


@pytest.mark.parametrize("name", sorted(PAGES))
def test_page_is_up_to_date(name: str, checkout: Path) -> None:
    """The page in the repository equals the page made from the code."""
    assert (checkout / "docs" / "reference" / name).read_text() == PAGES[name](), HOW
