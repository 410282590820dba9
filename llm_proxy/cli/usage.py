"""`llm-proxy usage …`: what was used, and whether the numbers agree."""

import csv
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import click
from sqlalchemy import Engine

from llm_proxy.accounting import reconcile as units
from llm_proxy.accounting.ledger import folder_of, root_of
from llm_proxy.cli import output
from llm_proxy.cli.audit import plain_cell
from llm_proxy.cli.database import database, db_option
from llm_proxy.cli.errors import CommandError
from llm_proxy.cli.manage import ManageGroup, client, connection_options
from llm_proxy.cli.tree import Command
from llm_proxy.db import migrate as migrations
from llm_proxy.db.clock import DATABASE_S
from llm_proxy.db.session import reading
from llm_proxy.settings import Settings
from llm_proxy.usage import reconcile as sums

_PAGE = 100
_DAYS = 30
_FORM = "llm_proxy.output"
_COUNTS = (
    "requests",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "cost_usd",
    "estimated",
)
_SHOWN = {"prompt_tokens": "Prompt", "completion_tokens": "Completion", "cached_tokens": "Cached"}
_SHOWN |= {"reasoning_tokens": "Reasoning", "cost_usd": "USD"}


class _ShowCommand(Command):
    """A leaf with the options of the connection, and CSV among the forms."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        connection_options(self)
        for names, options in (
            (
                ["-o", "--output"],
                {"type": click.Choice(["table", "json", "yaml", "csv"]), "help": "Form of the result (table)."},
            ),
            (["--json"], {"is_flag": True, "help": "Same as -o json."}),
        ):
            self.params.append(click.Option(names, expose_value=False, is_eager=True, callback=_remember, **options))  # type: ignore[arg-type]


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value:
        ctx.meta[_FORM] = "json" if value is True else value


@click.group("usage", cls=ManageGroup)
def usage() -> None:
    """Model tokens and money: what was used, and whether the numbers agree."""


@usage.command("show", cls=_ShowCommand)
@click.option("--from", "since", metavar="TIME", help="First day: a date or RFC 3339 (30 days ago).")
@click.option("--to", "until", metavar="TIME", help="Last day, included (today).")
@click.option("--group-by", metavar="LIST", help="Of project, token, model, day.")
@click.option("--project-id", metavar="ID", help="Only this project.")
@click.option("--token-id", metavar="ID", help="Only this token.")
@click.option("--model", metavar="NAME", help="Only this model.")
@click.option("--limit", type=click.IntRange(1, 100), metavar="N", help="Rows; else all.")
@click.option("--cursor", metavar="TEXT", help="Where the last answer ended.")
def show(
    since: str | None,
    until: str | None,
    group_by: str | None,
    project_id: str | None,
    token_id: str | None,
    model: str | None,
    limit: int | None,
    cursor: str | None,
) -> None:
    """Show sums of requests, model tokens and money."""
    query = {"from": since, "to": until, "group_by": group_by, "project_id": project_id, "token_id": token_id}
    query["model"] = model
    found = _pages(query, limit, cursor)
    rows = found["data"]
    groups = [name.strip() for name in (group_by or "").split(",") if name.strip()]
    if output.output_format() == "csv":
        writer = csv.writer(sys.stdout)
        columns = [*groups, *_COUNTS]
        writer.writerow(columns)
        writer.writerows([plain_cell(row.get(name)) for name in columns] for row in rows)
        return
    output.emit(found, lambda: _table(groups, rows))
    if output.output_format() == "table" and found["next_cursor"]:
        output.note(f"More: --cursor {found['next_cursor']}")


def _pages(query: Mapping[str, str | None], limit: int | None, cursor: str | None) -> dict[str, Any]:
    """One page where it is asked for, else all of them."""
    api, rows = client(), list[Any]()
    while True:
        found = api.call("GET", "/manage/usage", query={**query, "limit": limit or _PAGE, "cursor": cursor})
        rows += found["data"]
        cursor = found["next_cursor"]
        if cursor is None or limit is not None:
            return {"data": rows, "next_cursor": cursor}


def _table(groups: list[str], rows: list[Mapping[str, Any]]) -> str:
    heads = [name.capitalize() for name in groups] + [_SHOWN.get(name, name.capitalize()) for name in _COUNTS]
    return output.table(heads, [[row.get(name) for name in (*groups, *_COUNTS)] for row in rows])


@dataclass(frozen=True, slots=True)
class _Counted:
    """A token as accounting's comparison wants it."""

    id: str
    request_count: int
    max_requests: int | None
    leases: str | None


@usage.command("reconcile", cls=Command)
@click.option("--from", "since", type=click.DateTime(["%Y-%m-%d"]), metavar="DAY", help="First day (30 days ago).")
@click.option("--to", "until", type=click.DateTime(["%Y-%m-%d"]), metavar="DAY", help="Last day, included (today).")
@click.option("--events", type=click.Path(path_type=Path), metavar="FILE", help="A file of events to compare with.")
@db_option
@output.output_options
def reconcile(since: datetime | None, until: datetime | None, events: Path | None, db: str | None) -> None:
    """Compare counters, usage and events.

    Works on the configured database, and ends with 1 when any of them differ. Servers that run are up to two seconds
    ahead of what they have written.
    """
    last = until.date() if until is not None else datetime.now(UTC).date()
    first = since.date() if since is not None else last - timedelta(days=_DAYS)
    if first > last:
        raise CommandError("--from is after --to")
    with database(db) as (engine, found):
        migrations.require_current(engine)
        report = _report(engine, found, first, last, events)
    value = {
        "from": first.isoformat(),
        "to": last.isoformat(),
        "tokens": report.tokens,
        "events": report.events,
        "unknown_tokens": report.unknown_tokens,
        "outlived_tokens": report.outlived,
        "differences": [difference.to_json() for difference in report.differences],
        "held_elsewhere": [held.to_json() for held in report.held_elsewhere],
    }
    output.emit(value, lambda: _report_text(report))
    if report.differences:
        raise click.exceptions.Exit(1)


def _report(engine: Engine, found: Settings, first: date, last: date, events: Path | None) -> sums.Report:
    with reading(engine) as connection:
        database_id = str(connection.exec_driver_sql("SELECT id FROM instance").scalar_one())
        now_s = float(connection.exec_driver_sql(f"SELECT {DATABASE_S[engine.dialect.name]}").scalar_one())
    ledgers = units.noted(folder_of(root_of(found), database_id))
    rows = sums.token_rows(engine)
    counted = [_Counted(row["id"], row["request_count"], row["max_requests"], row["leases"]) for row in rows]
    charged = units.compare(counted, ledgers, now_s=now_s)
    try:
        seen = None if events is None else sums.event_counts(events, first, last)
    except OSError as error:
        raise CommandError(f"--events: {events} cannot be read: {error.strerror}") from error
    everything, period = sums.usage_sums(engine), sums.usage_sums(engine, first, last)
    days = found.usage_retention_days
    kept_since = datetime.fromtimestamp(now_s, UTC).date() - timedelta(days=days) if days else None
    return sums.compare(rows, charged, everything, period=period, events=seen, kept_since=kept_since)


def _report_text(report: sums.Report) -> str:
    said = f"{report.tokens} tokens compared"
    if report.events is not None:
        said += f", {report.events} events"
    notes = [
        f"{held['token_id']} is held by a worker whose ledger is not on this machine, last heard of at "
        f"{held['last_heard_of']}; if it was lost, the counter {held['counter']}"
        for held in (one.to_json() for one in report.held_elsewhere)
    ]
    if report.outlived:
        notes.append(f"{report.outlived} tokens are older than USAGE_RETENTION_DAYS and were left out")
    if not report.differences:
        return "\n".join([f"{said}: all numbers agree", *notes])
    rows = [(one.token_id, one.what, one.counter, one.usage, one.counter - one.usage) for one in report.differences]
    return "\n".join([output.table(("Token", "What", "Counter", "Usage", "Difference"), rows), said, *notes])
