"""Results on stdout as a table, JSON or YAML; everything else on stderr."""

import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click

from llm_proxy.sanitize import printable

_FORMAT, _WIDE = "llm_proxy.output", "llm_proxy.wide"
_SHORT_ID = 8  # characters of an id that tell enough of them apart
_SILENT_S = 1.0  # what ends within it needs no line about its progress
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


def _remember_wide(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value:
        ctx.meta[_WIDE] = True


wide_option = click.option(
    "--wide",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_remember_wide,
    help="Whole ids and all columns, also on a terminal.",
)


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


def emit_table(
    found: Sequence[Any],
    columns: Sequence[str],
    row: Callable[[Any], Sequence[Any]],
    *,
    ids: Sequence[str] = (),
    optional: Sequence[str] = (),
) -> None:
    """Print a list: itself as JSON or YAML, or a table with a row for each item; `ids`, `optional`: see `table`."""
    emit(found, lambda: table(columns, map(row, found), ids=ids, optional=optional))


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    ids: Sequence[str] = (),
    optional: Sequence[str] = (),
) -> str:
    """Return columns as wide as their longest cell; None shows as `-`.

    On a terminal, and without --wide, ids are shortened and columns are left out until a row fits.

    Args:
        ids: Columns of ids; commands take the shortened ones as well.
        optional: Columns that may be left out, the first one first.
    """
    cells = [list(columns), *([_cell(item) for item in row] for row in rows)]
    if is_narrow():
        cells = _fitting(cells, ids, optional, shutil.get_terminal_size().columns)
    widths = _widths(cells)
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells)
    return "\n".join(lines)


def is_narrow() -> bool:
    """Return whether a table has to fit a terminal's width."""
    ctx = click.get_current_context(silent=True)
    return sys.stdout.isatty() and not (ctx is not None and ctx.meta.get(_WIDE))


def _widths(cells: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*cells, strict=True)]


def _fitting(cells: list[list[str]], ids: Sequence[str], optional: Sequence[str], width: int) -> list[list[str]]:
    columns = [list(column) for column in zip(*cells, strict=True)]
    columns = [[column[0], *shortened(column[1:])] if column[0] in ids else column for column in columns]
    for name in optional:
        if sum(max(map(len, column)) + 2 for column in columns) - 2 <= width:
            break
        columns = [column for column in columns if column[0] != name]
    return [list(row) for row in zip(*columns, strict=True)]


def shortened(ids: Sequence[str]) -> list[str]:
    """Return the ids, cut to the least length from 8 on at which different ones stay different."""
    length = _SHORT_ID
    while len({identity[:length] for identity in ids}) < len(set(ids)):
        length += 1
    return [identity[:length] for identity in ids]


def counted(number: int, noun: str) -> str:
    """Return `1 record`, `2 records`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


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
    """Return an RFC 3339 time in UTC as `YYYY-MM-DD HH:MMZ`, the form of every table."""
    return None if instant is None else f"{instant[:16].replace('T', ' ')}Z"


def second(instant: str | None) -> str | None:
    """Return an RFC 3339 time in UTC as `YYYY-MM-DD HH:MM:SSZ`, where minutes do not tell rows apart."""
    return None if instant is None else f"{instant[:19].replace('T', ' ')}Z"


@contextmanager
def working(what: str, progress: Callable[[], str] | None = None) -> Iterator[None]:
    """Show on stderr, where it is a terminal, that a long command works and for how long.

    Args:
        what: What is done.
        progress: How far it is, such as `120 of 500`; called twice a second from another thread.
    """
    if not sys.stderr.isatty():
        yield
        return
    done = threading.Event()
    ticker = threading.Thread(target=_tick, args=(what, progress, done), daemon=True)
    ticker.start()
    try:
        yield
    finally:
        done.set()
        ticker.join()


def _tick(what: str, progress: Callable[[], str] | None, done: threading.Event) -> None:
    began, width = time.monotonic(), 0
    if done.wait(_SILENT_S):
        return
    while not done.wait(0.5):
        line = f"{what}: {progress() + ', ' if progress else ''}{time.monotonic() - began:.0f} s"
        sys.stderr.write(f"\r{line.ljust(width)}")
        sys.stderr.flush()
        width = len(line)
    sys.stderr.write(f"\r{' ' * width}\r")
    sys.stderr.flush()


def note(message: str) -> None:
    """Print a remark that is no result; not beside JSON or YAML, whose errors are documents on stderr, too."""
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
