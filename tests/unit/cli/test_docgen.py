"""docs/commands.md says what the commands say of themselves, and every page names commands that exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click

from llm_proxy.cli import root
from llm_proxy.cli.docgen import as_markdown

PAGES = ("*.md", "docs/**/*.md", "charts/llm-proxy/*.md", "charts/llm-proxy/templates/NOTES.txt")
GROUPS = "audit|config|db|dispatcher|events|manage|migrate|openai|usage"
INLINE = re.compile(rf"`(?:[^`\n]* )?(?:[\w./]*/)?llm-proxy ([a-z][^`]*)`|`((?:{GROUPS}) [a-z][^`\n]*)`")
LINE = re.compile(r"^[^#`\n]*?(?<![\w/-])(?:\.venv/bin/)?llm-proxy ([a-z]+(?=[ \n])[^\n]*)$", re.MULTILINE)
FENCE = re.compile(r"^ *```(?:sh|bash|console)?\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
NOT_COMMANDS = re.compile(r"charts/|management API|at the provider")  # speak of the project


def test_page_is_up_to_date(checkout: Path) -> None:
    """Every command with its arguments, options and meaning."""
    how = "run: python -m llm_proxy.cli.docgen docs/commands.md"
    assert (checkout / "docs" / "commands.md").read_text() == as_markdown(), how


def commands_in(text: str) -> Iterator[str]:
    """Return what follows `llm-proxy` inline and in the shell's snippets of a page."""
    text = text.replace("\\\n", " ")
    yield from (match[1] or match[2] for match in INLINE.finditer(text))
    for block in FENCE.findall(text):
        yield from (match[1] for match in LINE.finditer(block))


def fault_of(text: str) -> str | None:
    """Return why the command line is wrong, None if its words, options and number of arguments are right."""
    text = re.split(r"\s#|[|;)…]|&&|>\S| > | < | &$", text)[0].strip("[]. ")
    words = shlex.split(re.sub(r"[\[\]']|\"\$\(.*|\$\(.*", " ", text))
    command: click.Command = root
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(click.Context(command), words[0])
        if found is None:
            return f"no command {words[0]}"
        command, words = found, words[1:]
    if isinstance(command, click.Group) or (words[-1:] and words[-1].startswith("--")):
        return None  # speaks of a group, or of an option without its value
    try:
        _, left, _ = command.make_parser(click.Context(command)).parse_args(words)
    except click.UsageError as exc:
        return exc.format_message()
    return f"too many arguments: {left}" if left else None


def test_pages_name_commands_and_options_that_exist(checkout: Path) -> None:
    """A command of README, docs or chart that is misspelled is named with its page."""
    named = [
        (path.name, command)
        for pattern in PAGES
        for path in checkout.glob(pattern)
        for command in commands_in(path.read_text())
        if not NOT_COMMANDS.match(command)
    ]
    assert len(named) > 150
    assert [(page, text, fault) for page, text in named if (fault := fault_of(text))] == []
