"""`llm-proxy audit …`: the audit trail read, exported, cut; see cli/verify.py, too."""

import csv
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import click
from sqlalchemy import Engine

from llm_proxy.audit import pruning
from llm_proxy.audit.record import AuditEvent
from llm_proxy.audit.writer import AuditWriter
from llm_proxy.cli import output
from llm_proxy.cli.database import database, db_option
from llm_proxy.cli.errors import CommandError
from llm_proxy.cli.manage import ManageCommand, ManageGroup, client
from llm_proxy.cli.projects import segment
from llm_proxy.cli.tree import Command
from llm_proxy.db import migrate
from llm_proxy.db.clock import now_of
from llm_proxy.runtime.clock import rfc3339, utc_now
from llm_proxy.settings import Settings
from llm_proxy.settings.declare import duration_s
from llm_proxy.texts import spreadsheet_safe

_PAGE = 100
_FILTERS = (
    "action",
    "actor",
    "outcome",
    "project_id",
    "token_id",
    "client_ip",
    "request_id",
    "correlation_id",
    "method",
    "path",
)
_FIELDS = (
    *("id", "timestamp", "action", "actor", "outcome", "project_id", "token_id", "client_ip", "request_id"),
    *("correlation_id", "method", "path", "user_agent", "reason", "metadata"),
)


_LAZY = {"verify": ("llm_proxy.cli.verify:verify", "Prove that no record was changed or left out.")}


@click.group("audit", cls=ManageGroup, lazy=_LAZY)
def audit() -> None:
    """The audit trail."""


def _filter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for name in reversed(_FILTERS):
        text = f"Only this {name.replace('_', ' ')}."
        command = click.option(f"--{name.replace('_', '-')}", metavar="TEXT", help=text)(command)
    command = click.option("--search", metavar="TEXT", help="Only records that contain it.")(command)
    command = click.option("--until", "--end-time", "until", metavar="TIME", help="Up to then, included.")(command)
    return click.option(
        "--since", "--start-time", "since", metavar="TIME", help="From then on: RFC 3339, a date, or 24h, 7d ago."
    )(command)


@audit.command("list")
@_filter_options
@click.option("--page", type=click.IntRange(1), metavar="N", help="Page (1).")
@click.option("--page-size", type=click.IntRange(1, 100), metavar="N", help="Records a page (20).")
@click.option("--limit", type=click.IntRange(1, 100), metavar="N", help="Records, by cursor in place of pages.")
@click.option("--cursor", metavar="TEXT", help="Where the last answer ended.")
@click.option("--oldest-first", is_flag=True, help="In the order in which things happened.")
def list_events(
    page: int | None,
    page_size: int | None,
    limit: int | None,
    cursor: str | None,
    oldest_first: bool,
    **said: str | None,
) -> None:
    """List records, the newest first."""
    places = {"page": page, "page_size": page_size, "limit": limit, "cursor": cursor}
    query = _query(said) | places | {"sort": "asc" if oldest_first else None}
    found = client().call("GET", "/manage/audit", query=query)
    columns = ("Time", "Action", "Actor", "Outcome", "Project", "Token", "Client", "Reason", "ID")
    names = ("action", "actor", "outcome", "project_id", "token_id", "client_ip", "reason", "id")

    def as_text() -> str:
        rows = [(event["timestamp"][:19], *(event.get(name) for name in names)) for event in found["events"]]
        return output.table(columns, rows)

    output.emit(found, as_text)
    if found.get("next_cursor"):
        output.note(f"More: --cursor {found['next_cursor']}")


@audit.command("show")
@click.argument("event_id", metavar="ID")
def show(event_id: str) -> None:
    """Show one record."""
    found = client().call("GET", f"/manage/audit/{segment(event_id)}")
    output.emit(found, lambda: output.lines({name: found[name] for name in _FIELDS if name in found}))


@audit.command("export", cls=ManageCommand)
@_filter_options
@click.option("--format", "form", type=click.Choice(["jsonl", "csv"]), default="jsonl", help="Form (jsonl).")
def export(form: str, **said: str | None) -> None:
    """Write all records to stdout, the oldest first.

    They are written as they are read: a line each, with --format csv a row, with --json all of them one array.
    """
    query = _query(said)
    query.setdefault("end_time", rfc3339(utc_now()))  # reading is recorded, too
    records = _everything(query)
    match output.output_format():
        case "json":
            _json_array(records)
        case "yaml":
            _yaml_list(records)
        case _ if form == "csv":
            rows = csv.writer(sys.stdout)
            rows.writerow(_FIELDS)
            rows.writerows([plain_cell(record.get(name)) for name in _FIELDS] for record in records)
        case _:
            sys.stdout.writelines(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records)
    sys.stdout.flush()


@audit.command("prune", cls=Command)
@click.option("--older-than", required=True, metavar="TIME", help="From so long ago: 90d, 12h.")
@click.option("--dry-run", is_flag=True, help="Only count what would be deleted.")
@click.option("--past-faults", is_flag=True, help="Also what is old behind a broken record.")
@db_option
@output.output_options
def prune(older_than: str, dry_run: bool, past_faults: bool, db: str | None) -> None:
    """Delete old records from the table.

    Works on the configured database, in batches while servers serve, and leaves a system.cleanup record; the audit file
    is left alone. Chains keep their proof: see audit verify. What comes after a broken record stays, unless
    --past-faults is given.
    """
    try:
        age = timedelta(seconds=duration_s(older_than))
    except (ValueError, OverflowError):
        raise CommandError("--older-than: expected a duration such as 90d or 12h") from None
    with database(db) as (engine, settings):
        migrate.require_current(engine)
        before = now_of(engine) - age
        if dry_run:
            done = pruning.Pruned(pruning.count(engine, before))
        else:
            done = _prune(engine, settings, before, past_faults)
    value = {"would_delete" if dry_run else "deleted": done.rows}
    output.emit(value, lambda: f"{done.rows} records {'would be deleted' if dry_run else 'deleted'}")
    for fault in done.faults:
        output.note(f"Warning: {fault}; what comes after it was kept")


def _prune(engine: Engine, settings: Settings, before: datetime, past_faults: bool) -> pruning.Pruned:
    writer = AuditWriter.of(engine, settings)
    done = pruning.Pruner(engine, writer.chain, actor="cli", past_faults=past_faults).prune(before)
    if done.rows:
        writer.record(AuditEvent("system.cleanup", "cli", "success", details={"audit_deleted": done.rows}))
    writer.close()
    return done


def _everything(query: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Page by page, by key: what is recorded meanwhile neither shifts nor repeats a row."""
    api, cursor = client(), None
    while True:
        found = api.call("GET", "/manage/audit", query={**query, "limit": _PAGE, "sort": "asc", "cursor": cursor})
        yield from found["events"]
        cursor = found.get("next_cursor")
        if cursor is None:
            return


def _json_array(records: Iterable[Mapping[str, Any]]) -> None:
    before = "[\n"
    for record in records:
        sys.stdout.write(before + textwrap.indent(json.dumps(record, indent=2, ensure_ascii=False), "  "))
        before = ",\n"
    sys.stdout.write("[]\n" if before == "[\n" else "\n]\n")


def _yaml_list(records: Iterable[Mapping[str, Any]]) -> None:
    import yaml

    empty = True
    for record in records:
        sys.stdout.write(yaml.safe_dump([record], sort_keys=False, allow_unicode=True))
        empty = False
    sys.stdout.write("[]\n" if empty else "")


def plain_cell(value: Any) -> str:
    """A cell that a spreadsheet does not run: what clients sent may begin like a formula."""
    text = "" if value is None else str(value)
    return spreadsheet_safe(text)


def _query(said: Mapping[str, str | None]) -> dict[str, Any]:
    """The API's parameters."""
    query: dict[str, Any] = {name: said[name] for name in (*_FILTERS, "search") if said.get(name) is not None}
    for flag, name in (("since", "start_time"), ("until", "end_time")):
        if (written := said.get(flag)) is not None:
            query[name] = _instant(written)
    return query


def _instant(written: str) -> str:
    """As written, or that long ago."""
    if not re.fullmatch(r"(?:[0-9.]+(?:ms|[smhd]))+", written):
        return written
    return rfc3339(utc_now() - timedelta(seconds=duration_s(written)))
