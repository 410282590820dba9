"""Results on stdout as a table, JSON or YAML; everything else on stderr."""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import click

from llm_proxy.texts import printable

_FORMAT = "llm_proxy.output"
_JSON_FLAGS = ("--json", "-ojson", "--output=json")


def _remember_format(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value:
        ctx.meta[_FORMAT] = "json" if value is True else value


_HIDDEN: dict[str, Any] = {"expose_value": False, "is_eager": True, "callback": _remember_format}
form_option = click.option(
    "-o", "--output", type=click.Choice(["table", "json", "yaml"]), help="Form of the result (table).", **_HIDDEN
)
_json_option = click.option("--json", is_flag=True, help="Same as -o json.", **_HIDDEN)


def output_options(command: Any) -> Any:
    """Add `--json` and `-o table|json|yaml`, to a function or a command."""
    return form_option(_json_option(command))


def output_format(ctx: click.Context | None = None) -> str:
    """`table`, `json` or `yaml`, as the running command (or that of `ctx`) was asked."""
    ctx = ctx or click.get_current_context(silent=True)
    return "table" if ctx is None else str(ctx.meta.get(_FORMAT, "table"))


def form_in(arguments: Sequence[str]) -> str | None:
    """`json` where arguments that cannot be parsed ask for it: how the error looks does not depend on where it is."""
    pairs = zip(("", *arguments), arguments, strict=False)
    asks = any(here in _JSON_FLAGS or (before in ("-o", "--output") and here == "json") for before, here in pairs)
    return "json" if asks else None


def emit(value: Any, as_text: Callable[[], str]) -> None:
    """Print one result: the value itself as JSON or YAML, or the text for people."""
    match output_format():
        case "json":
            click.echo(json.dumps(value, indent=2, ensure_ascii=False))
        case "yaml":
            import yaml

            click.echo(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), nl=False)
        case _:
            click.echo(as_text())


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Columns as wide as their longest cell; None shows as `-`."""
    cells = [list(columns), *([_cell(item) for item in row] for row in rows)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(columns))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells)
    return "\n".join(lines)


def lines(about: Mapping[str, Any]) -> str:
    """`Name: value` lines; None shows as `-`."""
    return "\n".join(f"{name}: {_cell(value)}" for name, value in about.items())


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return printable(str(value))


def minute(instant: str | None) -> str | None:
    """An RFC 3339 time as `YYYY-MM-DD HH:MM`."""
    return None if instant is None else instant[:16].replace("T", " ")


def note(message: str) -> None:
    """A remark that is no result; not beside JSON or YAML, whose errors are documents on stderr, too."""
    if output_format() == "table":
        click.echo(message, err=True)


def show_error(message: str, status: int | None = None, form: str = "table") -> None:
    """One line on stderr a fault, or in the form `json` one object."""
    if form == "json":
        click.echo(json.dumps({"error": message, "status": status}, indent=2, ensure_ascii=False), err=True)
        return
    prefix = "Error: " if status is None else f"Error: HTTP {status}: "
    for line in message.splitlines() or [""]:
        click.echo(prefix + line, err=True)


def is_terminal() -> bool:
    """Whether a person sits at both ends."""
    return sys.stdin.isatty() and sys.stderr.isatty()
