"""docs/commands.md says what the commands say of themselves."""

from pathlib import Path

from llm_proxy.cli.docgen import as_markdown


def test_page_is_up_to_date(checkout: Path) -> None:
    """Every command with its arguments, options and meaning."""
    how = "run: python -m llm_proxy.cli.docgen docs/commands.md"
    assert (checkout / "docs" / "commands.md").read_text() == as_markdown(), how
