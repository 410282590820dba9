"""`llm-proxy audit verify`: the proof that no record was changed or left out."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from sqlalchemy.exc import SQLAlchemyError

from llm_proxy.audit.chain import Link
from llm_proxy.audit.file_heads import FileHead, file_heads
from llm_proxy.audit.verify import Report, verify_table
from llm_proxy.audit.verify_file import verify_file
from llm_proxy.cli import output
from llm_proxy.cli.base import Command
from llm_proxy.cli.database import database, db_option
from llm_proxy.cli.errors import CommandError
from llm_proxy.cli.output import counted
from llm_proxy.db import migrate
from llm_proxy.db.errors import DatabaseFault
from llm_proxy.db.session import read_transaction
from llm_proxy.runtime.clock import rfc3339

_PATH = click.Path(path_type=Path)


@click.command(
    "verify",
    cls=Command,
    examples=(
        "llm-proxy audit verify",
        "llm-proxy audit verify --file audit.log.1 --file audit.log",
        "llm-proxy audit verify -o json >ends.json    # later: --against ends.json",
    ),
)
@click.option(
    "--file", "files", multiple=True, type=_PATH, metavar="PATH", help="Audit file; several times: the oldest first."
)
@click.option("--part", is_flag=True, help="The newest file is not among them: say nothing of the end.")
@click.option("--against", type=_PATH, metavar="PATH", help="What -o json printed before, kept elsewhere.")
@db_option
@output.output_options
def verify(files: Sequence[Path], part: bool, against: Path | None, db: str | None) -> None:
    """Prove that no audit record was changed or left out.

    Looks at the table while servers serve, or at files. Names the first broken record of each chain by its writer and
    number, and exits with 1 if there is one.
    """
    if files:
        if against is not None:
            raise CommandError("--against is for the table")
        with output.working("Verifying audit files"):
            report = _files(files, part, db)
    else:
        with database(db) as (engine, _):
            migrate.require_current(engine)
            ends = None if against is None else _ends(against)
            with output.working("Verifying audit records"):
                report = verify_table(engine, ends)
    output.emit(_value(report), lambda: _text(report))
    if report.faults:
        raise click.exceptions.Exit(1)


def _files(files: Sequence[Path], part: bool, db: str | None) -> Report:
    known = None if part else _known(db)
    try:
        return verify_file(files, known, is_part=part)
    except (OSError, EOFError) as error:
        named = f"{getattr(error, 'filename', None) or files[-1]}"
        raise CommandError(f"--file {named}: {getattr(error, 'strerror', None) or 'cannot be read'}") from error


def _known(db: str | None) -> dict[str, FileHead] | None:
    """Return what the database knows of files; None when there is none, or nothing is kept there."""
    try:
        with database(db) as (engine, settings):
            if not settings.operation.audit_store_in_db:
                return None
            try:
                if migrate.status(engine).version < migrate.head():
                    return None
                with read_transaction(engine) as connection:
                    return file_heads(connection)
            except (DatabaseFault, SQLAlchemyError):
                return None
    except CommandError as error:
        output.note(f"Warning: {error.message}")
        return None


def _ends(path: Path) -> dict[str, Link]:
    try:
        ends = json.loads(path.read_text())["ends"]
        return {str(end["writer"]): Link(int(end["last_seq"]), str(end["last_hash"])) for end in ends}
    except (OSError, ValueError, TypeError, KeyError):
        raise CommandError(f"--against: {path} is not what audit verify -o json prints") from None


def _value(report: Report) -> dict[str, Any]:
    return {
        "whole": not report.faults,
        "records": report.records,
        "writers": report.writers,
        "without_chain": report.without_chain,
        "unreadable": report.unreadable,
        "tail": "unchecked" if report.unchecked else "checked",
        "faults": [fault.to_json() for fault in report.faults],
        "ends": [
            {"writer": writer, "last_seq": link.seq, "last_hash": link.hash} for writer, link in report.ends.items()
        ],
    }


def _text(report: Report) -> str:
    said = [f"{counted(report.records, 'record')} of {counted(report.writers, 'writer')} verified"]
    if report.without_chain:
        newest = report.newest_without_chain
        said.append(
            f"{report.without_chain} records are in no chain, nothing is proven of them"
            + ("" if newest is None else f" (the newest is of {rfc3339(newest)})")
        )
    if report.unreadable:
        said.append(f"{report.unreadable} lines are no records")
    if report.unchecked:
        said.append(f"A missing tail cannot be seen: {report.unchecked}")
    said += [f"BROKEN: {fault}" for fault in report.faults]
    return "\n".join(said)
