"""Options that several commands share, and the forms that their values have."""

import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from llm_proxy.cli.errors import CommandError
from llm_proxy.cli.output import is_terminal
from llm_proxy.settings.variable import duration_s


def read_secret(option: str, value: str | None, *, prompt: str | None = None) -> str | None:
    """Return a secret's value: as given, from stdin (`-`), from a file (`@path`), or asked for without echo.

    Args:
        option: Name for error texts.
        value: What the flag said; None when it was not given.
        prompt: What to ask on a terminal when it was not given; None asks nothing.
    """
    if value is None:
        return str(click.prompt(prompt, hide_input=True, err=True)) if prompt and is_terminal() else None
    if value == "-":
        if is_terminal():
            return str(click.prompt(prompt or option.lstrip("-").capitalize(), hide_input=True, err=True)).strip()
        return sys.stdin.readline().strip()
    if value.startswith("@"):
        try:
            return Path(value[1:]).read_text().strip()
        except (OSError, UnicodeDecodeError):
            raise CommandError(f"{option}: {value[1:]} cannot be read") from None
    return value.strip()


class ParsedType(click.ParamType):  # type: ignore[type-arg]  # generic only from click 8.2 on
    """The type of values that a function reads, whose ValueError is worded as what it accepts."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name, self._parse = name, parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value; a default that is no text stays as it is."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as exc:
            self.fail(f"expected {exc}", param, ctx)


class DurationOption(click.Option):
    """An option in seconds: `30s`, `250ms`, `1h30m` or a bare number."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs |= {"type": ParsedType("duration", duration_s), "metavar": "TIME"}
        super().__init__(*args, **kwargs)


class PlainOption(click.Option):
    """An option whose help is its own words: without click's `[x>=1]` and `[default: …]`."""

    def get_help_extra(self, ctx: click.Context) -> Any:
        """Return nothing."""
        return {}


plain_option = partial(click.option, cls=PlainOption)
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


def confirm(question: str, yes: bool) -> None:
    """Ask before something is destroyed, where a person sits at the terminal; scripts are not asked.

    Raises:
        CommandError: The person said no.
    """
    if yes or not is_terminal():
        return
    if not click.confirm(question, err=True):
        raise CommandError("nothing was changed")


def complete_services(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete the back ends that the package brings; others may be installed and are taken as well."""
    return [name for name in ("file", "lunary", "helicone", "otlp") if name.startswith(incomplete)]


def back_end_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that name a back end of the dispatcher, and its key."""
    for option in reversed(_BACK_END):
        command = option(command)
    return command


_BACK_END = (
    click.option(
        "--service",
        metavar="NAME",
        shell_complete=complete_services,
        help="file, lunary, helicone or otlp (DISPATCHER_SERVICE).",
    ),
    click.option("--endpoint", metavar="URL|PATH", help="Where events go (DISPATCHER_ENDPOINT)."),
    click.option("--api-key", metavar="KEY", help="Key of the service: KEY, @FILE or - (LLM_PROXY_API_KEY)."),
)


class Words(click.ParamType):  # type: ignore[type-arg]  # generic only from click 8.2 on
    """A list of closed words, separated by commas."""

    name = "words"

    def __init__(self, *words: str) -> None:
        self._words = words

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the list as written. Fails naming the word that is none of them."""
        for word in (part.strip() for part in str(value).split(",")):
            if word not in self._words:
                self.fail(f"{word!r} is not one of {', '.join(self._words)}", param, ctx)
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete the word behind the last comma."""
        before, comma, last = incomplete.rpartition(",")
        return [CompletionItem(f"{before}{comma}{word}") for word in self._words if word.startswith(last)]


def given(**said: Any) -> dict[str, Any]:
    """Only what was said: entries that are not None."""
    return {name: value for name, value in said.items() if value is not None}


def nullable(name: str, value: str | None) -> int | str | None:
    """Return a number of an option where `none` means null: an int, or a decimal as text. Raises CommandError."""
    if value is None or value == "none":
        return None
    if re.fullmatch(r"[0-9]{1,18}", value):
        return int(value)
    if re.fullmatch(r"[0-9]+\.[0-9]+", value):
        return value
    raise CommandError(f"--{name.replace('_', '-')}: expected a number or none")


def sort_option(fields: str) -> Callable[[Any], Any]:
    """Return the order of a list; `fields` are what the API takes."""
    return click.option("--sort", metavar="FIELD", help=f"By {fields}; with - before it descending.")


def label(name: str) -> str:
    """Return a member's name as a person reads it."""
    return name.replace("_", " ").capitalize().replace(" usd", " USD")
