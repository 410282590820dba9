"""`llm-proxy usage reconcile`: whether counters, usage and events agree."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import click
from sqlalchemy import Engine

from llm_proxy.accounting import reconcile as units
from llm_proxy.accounting.ledger import folder_of, root_of
from llm_proxy.cli import output
from llm_proxy.cli.base import Command
from llm_proxy.cli.database import database, db_option
from llm_proxy.cli.errors import CommandError
from llm_proxy.db import migrate as migrations
from llm_proxy.db.clock import DATABASE_S
from llm_proxy.db.session import read_transaction
from llm_proxy.money import decimal_text
from llm_proxy.operations import reconcile as sums
from llm_proxy.settings import Settings

_DAYS = 30


@click.command(
    "reconcile", cls=Command, examples=("llm-proxy usage reconcile --from 2026-01-01 --events events.jsonl",)
)
@click.option("--from", "since", type=click.DateTime(["%Y-%m-%d"]), metavar="DAY", help="First day (30 days ago).")
@click.option("--to", "until", type=click.DateTime(["%Y-%m-%d"]), metavar="DAY", help="Last day, included (today).")
@click.option("--events", type=click.Path(path_type=Path), metavar="FILE", help="A file of events to compare with.")
@db_option
@output.output_options
def reconcile(since: datetime | None, until: datetime | None, events: Path | None, db: str | None) -> None:
    """Compare counters, usage and events.

    Works on the configured database, and exits with 1 if any of them differ. Servers that run are up to two seconds
    ahead of what they have written.
    """
    last = until.date() if until is not None else datetime.now(UTC).date()
    first = since.date() if since is not None else last - timedelta(days=_DAYS)
    if first > last:
        raise CommandError("--from is after --to")
    with database(db) as (engine, found):
        migrations.require_current(engine)
        with output.working("Comparing counters, usage and events"):
            report = _report(engine, found, first, last, events)
    value = {
        "from": first.isoformat(),
        "to": last.isoformat(),
        "tokens": report.tokens,
        "events": report.events,
        "unknown_tokens": report.unknown_tokens,
        "outlived_tokens": report.outlived,
        "providers": {
            name: {"requests": requests, "model_tokens": model_tokens, "cost_nano_usd": cost}
            for name, (requests, model_tokens, cost) in report.providers.items()
        },
        "differences": [difference.to_json() for difference in report.differences],
        "held_elsewhere": [held.to_json() for held in report.held_elsewhere],
    }
    output.emit(value, lambda: _report_text(report))
    if report.differences:
        raise click.exceptions.Exit(1)


def _report(engine: Engine, found: Settings, first: date, last: date, events: Path | None) -> sums.Report:
    with read_transaction(engine) as connection:
        database_id = str(connection.exec_driver_sql("SELECT id FROM instance").scalar_one())
        now_s = float(connection.exec_driver_sql(f"SELECT {DATABASE_S[engine.dialect.name]}").scalar_one())
    ledgers = units.noted(folder_of(root_of(found), database_id))
    rows = sums.token_rows(engine)
    counted = [units.Counted(row["id"], row["request_count"], row["max_requests"], row["leases"]) for row in rows]
    charged = units.compare(counted, ledgers, now_s=now_s)
    try:
        seen = None if events is None else sums.event_counts(events, first, last)
    except OSError as error:
        raise CommandError(f"--events: {events} cannot be read: {error.strerror}") from error
    everything, period = sums.usage_sums(engine), sums.period_sums(engine, first, last)
    days = found.tokens.usage_retention_days
    kept_since = datetime.fromtimestamp(now_s, UTC).date() - timedelta(days=days) if days else None
    return sums.compare(rows, charged, everything, period=period, events=seen, kept_since=kept_since)


def _report_text(report: sums.Report) -> str:
    said = f"{report.tokens} tokens compared"
    if report.events is not None:
        said += f", {report.events} events"
    notes = [
        f"{name or 'provider not recorded'}: {requests} requests, {model_tokens} model tokens, {decimal_text(cost)} USD"
        for name, (requests, model_tokens, cost) in report.providers.items()
        if len(report.providers) > 1
    ]
    notes += [
        f"{held['token_id']} is held by a worker whose ledger is not on this machine, last heard of at "
        f"{held['last_heard_of']}; if it was lost, the counter {held['counter']}"
        for held in (one.to_json() for one in report.held_elsewhere)
    ]
    if report.outlived:
        notes.append(f"{report.outlived} tokens are older than USAGE_RETENTION_DAYS and were left out")
    if not report.differences:
        return "\n".join([f"{said}: all numbers agree", *notes])
    rows = [
        (one.token_id, one.what, one.provider, one.counter, one.usage, one.counter - one.usage)
        for one in report.differences
    ]
    heads = ("Token", "What", "Provider", "Counter", "Usage", "Difference")
    return "\n".join([output.table(heads, rows, optional=("Provider",)), said, *notes])
