"""Texts that people read cite nothing that the project does not hold, and use the glossary's words."""

import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

IDS = re.compile(
    r"\b(?:DP|MP|EV|CH|MD|RD)-\d+[a-z]?\b"
    r"|\b(?:data-plane|hot-path|accounting\.md|management\.md) (?:§|decision|row|line)"
    r"|\bdata-plane \d"
)
PEOPLE = "".join(
    rf"(?<!{word} )"
    for word in ("people", "person", "operators", "readers", "attackers", "user", "owner", "contributor", "anyone")
)
WORDS = {  # a pattern, and what to say instead
    r"whom?": "that, which, or the name of the part that acts; `who` is for people",
    r"whoever": "the name of the part that acts",
    r"nobody|no one": "no caller, no worker, …",
    r"somebody|someone": "another caller, another worker, …",
    r"anybody|everybody": "any client, all workers, …",
    r"of ours|ours": "the proxy's",
    r"(of|by) our own|our own": "the proxy's own",
    r"anew": "again",
    r"let(s|ting)? go": "release, end",
    r"(is|are|was|were|be|been|being|stays?) away": "unavailable",
    r"mates?": "another worker",
    r"(an|the|its|their|each|every|one|stored|whole|interim|first|these|provider's) answers?": "response",
}
NAMES = re.compile(r"<[^>]*>|`[^`]*`|\{[^}]*\}|\]\([^)]*\)|https?://\S+|\S+@\S+|\.\w+")
STRINGS = {tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}  # f-strings are split since 3.12
SOURCES = (
    ".py",
    ".mako",
    ".md",
    ".yaml",
    ".tpl",
    ".html",
    ".txt",
    ".cfg",
    ".ini",
    ".sh",
    ".css",
    ".js",
    ".example",
    ".toml",
)
SCRIPTS = ("bin/", "docker/", "tools/", "Dockerfile", ".ci/")  # their files have no ending
OUTSIDE = (
    "tests/cases/",
    "llm_proxy/web/admin/static/vendor/",
    "CODE_OF_CONDUCT.md",
    "tests/unit/tools/test_language.py",
)


def texts(checkout: Path, *prefixes: str) -> dict[str, str]:
    """Return the tracked text files below the prefixes, by path."""
    listed = subprocess.run(["git", "ls-files"], cwd=checkout, capture_output=True, text=True, check=True).stdout
    wanted = [
        n for n in listed.split("\n") if n.endswith(SOURCES) or ("." not in Path(n).name and n.startswith(SCRIPTS))
    ]
    names = [n for n in wanted if not n.startswith(OUTSIDE)]
    return {n: (checkout / n).read_text() for n in names if n.startswith(prefixes) and (checkout / n).exists()}


def test_no_text_cites_a_document_that_is_not_here(checkout: Path) -> None:
    """Reasons and RFC sections stand where an id would stand."""
    found = [f"{name}: {match[0]}" for name, text in texts(checkout, "").items() for match in IDS.finditer(text)]
    assert found == []


def prose(name: str, text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file that people read, with their numbers: no code, no names in backticks, no links."""
    for number, line in _python(text) if name.endswith(".py") else _page(text):
        yield number, NAMES.sub("…", line)


def _python(text: str) -> Iterator[tuple[int, str]]:
    """Yield comments, and strings of more than one word: docstrings, messages, help."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT or (token.type in STRINGS and " " in token.string):
            yield from enumerate(token.string.split("\n"), token.start[0])


def _page(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines outside of fenced examples."""
    is_fenced = False
    for number, line in enumerate(text.split("\n"), 1):
        is_fence = line.lstrip().startswith("```")
        is_fenced ^= is_fence
        if not is_fenced and not is_fence:
            yield number, line


@pytest.fixture(scope="module")
def sentences() -> list[tuple[str, str]]:
    """Return each line of prose with its place."""
    read = texts(Path(__file__).parents[3], "")
    return [(f"{name}:{number}", line) for name, text in read.items() for number, line in prose(name, text)]


@pytest.mark.parametrize("word", WORDS)
def test_plain_words(sentences: list[tuple[str, str]], word: str) -> None:
    """Texts, comments, docstrings, messages and help name what they mean."""
    before = PEOPLE if word.startswith("who") else ""
    pattern = re.compile(rf"{before}\b(?:{word})\b", re.IGNORECASE)
    found = [f"{place}: {line.strip()}" for place, line in sentences if pattern.search(line)]
    assert found == [], f"say instead: {WORDS[word]}"


def test_the_test_of_words_reads_prose_alone() -> None:
    """A docstring, a comment and a message are read; names in code and in backticks are not."""
    text = '"""For whom."""\nwho = f(`nobody`) if False else 1  # of ours\nraise Away("the bus is away")\n'.replace(
        "`", "'"
    )
    assert [line for _, line in prose("a.py", text)] == ['"""For whom."""', "# of ours", '"the bus is away"']
    assert (
        list(prose("a.md", "who `who`\n```sh\nwho\n```\n[that](who.md)"))
        == [
            (1, "who …"),
            (5, "[that…"),
        ][:2]
    )
