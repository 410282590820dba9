"""docs/reference/behaviour.md shows the table that the code acts by."""

import re
from pathlib import Path

from llm_proxy.accounting.outcomes import BY_STATUS, TABLE, Row


def cells(row: Row) -> list[str]:
    """A row as the page writes it."""

    def word(value: str | None) -> str:
        return "–" if value is None else "by status" if value == BY_STATUS else f"`{value}`"

    def yes(is_so: bool, text: str) -> str:
        return text if is_so else "–"

    return [
        f"`{row.name}`",
        str(row.number),
        row.outcome,
        row.charge.value,
        yes(row.is_counted, "+1"),
        yes(row.is_error, "+1"),
        word(row.upstream),
        yes(row.is_rejected, "by code"),
        word(row.disconnect),
        word(row.event),
        row.breaker,
        yes(row.is_logged, "yes"),
        word(row.audit),
        yes(row.is_use, "yes"),
    ]


def test_the_page_shows_the_table(checkout: Path) -> None:
    """Row by row, cell by cell."""
    page = (checkout / "docs" / "reference" / "behaviour.md").read_text()
    found = re.search(r"<!-- accounting table -->\n(.*?)\n<!-- end -->", page, re.DOTALL)
    assert found is not None
    shown = [[cell.strip() for cell in line.strip("|").split("|")] for line in found[1].splitlines()[2:]]
    assert shown == [cells(row) for row in TABLE]


def test_the_page_names_files_that_exist(checkout: Path) -> None:
    """Every path in backquotes is a file or folder of the package or the tree."""
    page = (checkout / "docs" / "architecture.md").read_text()
    paths = set(re.findall(r"`((?:[a-z_]+/)+(?:[a-z_]+\.py)?|[a-z_]+\.(?:py|cfg))`", page))
    assert len(paths) > 20
    missing = {path for path in paths if not ((checkout / path).exists() or (checkout / "llm_proxy" / path).exists())}
    assert missing == set()
