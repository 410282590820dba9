"""Texts that people read cite nothing that the project does not hold, and use the glossary's words."""

import re
import subprocess
from pathlib import Path

import pytest

IDS = re.compile(
    r"\b(?:DP|MP|EV|CH)-\d+[a-z]?\b"
    r"|\b(?:data-plane|hot-path|accounting\.md|management\.md) (?:§|decision|row|line)"
    r"|\bdata-plane \d"
)
WORDS = {
    "whoever": "name the part that acts",
    "nobody": "no caller, no worker, …",
    "somebody": "a caller, another worker, …",
    "of ours": "the proxy's",
    "anew": "again",
    "lets go of": "releases",
    "is away": "is unavailable",
}
SOURCES = (".py", ".md", ".yaml", ".tpl", ".html", ".txt", ".cfg", ".ini")
OUTSIDE = (
    "tests/cases/",
    "llm_proxy/web/admin/static/vendor/",
    "CODE_OF_CONDUCT.md",
    "tests/unit/tools/test_language.py",
)


def texts(checkout: Path, *prefixes: str) -> dict[str, str]:
    """Return the tracked text files below the prefixes, by path."""
    listed = subprocess.run(["git", "ls-files"], cwd=checkout, capture_output=True, text=True, check=True).stdout
    names = [n for n in listed.split("\n") if n.endswith(SOURCES) and not n.startswith(OUTSIDE)]
    return {n: (checkout / n).read_text() for n in names if n.startswith(prefixes) and (checkout / n).exists()}


def test_no_text_cites_a_document_that_is_not_here(checkout: Path) -> None:
    """Reasons and RFC sections stand where an id would stand."""
    found = [f"{name}: {match[0]}" for name, text in texts(checkout, "").items() for match in IDS.finditer(text)]
    assert found == []


@pytest.mark.parametrize("word", WORDS)
def test_plain_words(checkout: Path, word: str) -> None:
    """The package, its pages and its chart do without this word."""
    read = texts(checkout, "llm_proxy", "docs/", "README.md", "CONTRIBUTING.md", "SECURITY.md", "charts/")
    pattern = re.compile(rf"\b{word}\b", re.IGNORECASE)
    found = [name for name, text in read.items() if not name.startswith("docs/adr/") and pattern.search(text)]
    assert found == [], f"say instead: {WORDS[word]}"
