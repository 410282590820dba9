"""Options that several commands share, and the forms that their values have."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from llm_proxy.cli.errors import CommandError
from llm_proxy.cli.output import is_terminal
from llm_proxy.settings.declare import duration_s


def read_secret(option: str, value: str | None, *, prompt: str | None = None) -> str | None:
    """A secret's value: as given, from stdin (`-`), from a file (`@path`), or asked for without echo.

    Args:
        option: Name for error texts.
        value: What the flag said; None when it was not given.
        prompt: What to ask on a terminal when it was not given; None asks nothing.
    """
    if value is None:
        return str(click.prompt(prompt, hide_input=True, err=True)) if prompt and is_terminal() else None
    if value == "-":
        return sys.stdin.readline().strip()
    if value.startswith("@"):
        try:
            return Path(value[1:]).read_text().strip()
        except (OSError, UnicodeDecodeError):
            raise CommandError(f"{option}: {value[1:]} cannot be read") from None
    return value.strip()


class _Duration(click.ParamType):  # type: ignore[type-arg]  # generic only from click 8.2 on
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            return duration_s(value)
        except ValueError as exc:
            self.fail(f"expected {exc}", param, ctx)


class DurationOption(click.Option):
    """An option in seconds: `30s`, `250ms`, `1h30m` or a bare number."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs |= {"type": _Duration(), "metavar": "TIME"}
        super().__init__(*args, **kwargs)


def given(**said: Any) -> dict[str, Any]:
    """Only what was said: entries that are not None."""
    return {name: value for name, value in said.items() if value is not None}


def nullable(name: str, value: str | None) -> int | str | None:
    """A number of an option where `none` means null: an int, or a decimal as text. Raises CommandError."""
    if value is None or value == "none":
        return None
    if re.fullmatch(r"[0-9]{1,18}", value):
        return int(value)
    if re.fullmatch(r"[0-9]+\.[0-9]+", value):
        return value
    raise CommandError(f"--{name.replace('_', '-')}: expected a number or none")


def sort_option(fields: str) -> Callable[[Any], Any]:
    """The order of a list; `fields` are what the API takes."""
    return click.option("--sort", metavar="FIELD", help=f"By {fields}; with - before it descending.")


def label(name: str) -> str:
    """A member's name as a person reads it."""
    return name.replace("_", " ").capitalize().replace(" usd", " USD")
