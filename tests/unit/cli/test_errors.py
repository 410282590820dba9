"""What is wrong with a command line is said in one plain line."""

import click
import pytest

from llm_proxy.cli import root
from llm_proxy.cli.errors import usage_fault


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["setup", "--duration", "x"],
            "Invalid value for '--duration': 'x' is not a whole number; see root setup --help",
        ),
        (
            ["setup", "--adr", "x"],
            "No such option '--adr'; did you mean one of: '--addr', '--db'? See root setup --help",
        ),
        (["stup"], "No such command 'stup'; did you mean 'setup'? See root --help"),
    ],
    ids=["number", "option", "command"],
)
def test_line(words: list[str], said: str) -> None:
    """It names the word at fault, what is meant by it, and the help to read."""
    with pytest.raises(click.UsageError) as caught:
        root.main(words, prog_name="root", standalone_mode=False)
    assert usage_fault(caught.value) == said
