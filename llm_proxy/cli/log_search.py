"""`bin/log-search`: lines of a JSON log that fit all that is asked."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from llm_proxy.cli.base import Command
from llm_proxy.cli.environment import settings
from llm_proxy.cli.errors import CommandError
from llm_proxy.cli.options import plain_option

Line = Mapping[str, Any]
_SERVER_FAULT = 500


@click.command(cls=Command)
@click.option("--request-id", metavar="ID", help="Lines of this request.")
@click.option("--correlation-id", metavar="ID", help="Lines with this correlation id.")
@click.option("--project", metavar="ID", help="Lines of this project.")
@click.option("--errors", is_flag=True, help="Errors, and responses from 500 on.")
@plain_option("--slow", type=click.IntRange(0), metavar="MS", help="Requests that took so long or longer.")
@plain_option("--status", type=click.IntRange(100, 599), metavar="N", help="Responses with this status.")
@plain_option("--status-min", type=click.IntRange(100, 599), metavar="N", help="Responses with this status or above.")
@click.option("--path", metavar="TEXT", help="Requests whose path contains it.")
@click.option("--file", type=click.Path(), metavar="PATH", help="The log (LOG_FILE); - reads stdin.")
def log_search(file: str | None, **said: Any) -> None:
    """Print the lines of a JSON log that fit everything asked.

    They come as they stand, in their order. Lines that are no JSON (LOG_FORMAT=text) are passed over.
    """
    fits = [test for name, value in said.items() if (test := _test(name, value)) is not None]
    for line in _lines(file):
        found = _parsed(line)
        if found is not None and all(fit(found) for fit in fits):
            click.echo(line.rstrip("\n"))


def _test(name: str, value: Any) -> Callable[[Line], bool] | None:
    """Return what an option asks of a line; None when it was not given."""
    if value is None or value is False:
        return None
    tests: dict[str, Callable[[Line], bool]] = {
        "request_id": lambda line: line.get("request_id") == value,
        "correlation_id": lambda line: line.get("correlation_id") == value,
        "project": lambda line: line.get("project_id") == value,
        "errors": lambda line: line.get("level") == "error" or _number(line, "status_code") >= _SERVER_FAULT,
        "slow": lambda line: _number(line, "duration_ms") >= value,
        "status": lambda line: _number(line, "status_code") == value,
        "status_min": lambda line: _number(line, "status_code") >= value,
        "path": lambda line: value in str(line.get("path", "")),
    }
    return tests[name]


def _number(line: Line, name: str) -> float:
    """Return a number of the line, -1 where it has none."""
    value = line.get(name)
    return value if isinstance(value, int | float) else -1


def _lines(file: str | None) -> Iterator[str]:
    path = file or settings().operation.log_file
    if path == "-" or (path is None and not sys.stdin.isatty()):
        yield from sys.stdin
        return
    if path is None:
        raise CommandError("no log: set LOG_FILE, give --file, or pipe it in")
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as lines:
            yield from lines
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}") from error


def _parsed(line: str) -> Line | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


if __name__ == "__main__":
    log_search(prog_name="log-search")
