"""`llm-proxy audit …`: the audit trail read and exported; cli/verify.py and cli/pruning.py have the rest."""

import csv
import json
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import click

from llm_proxy.cli import output
from llm_proxy.cli.datetimes import ApiMomentOption
from llm_proxy.cli.manage import ManageCommand, ManageGroup, client
from llm_proxy.cli.management_client import ManagementClient
from llm_proxy.cli.options import plain_option
from llm_proxy.cli.references import audit_id
from llm_proxy.cli.references import project_id as id_of
from llm_proxy.runtime.clock import rfc3339, utc_now
from llm_proxy.sanitize import spreadsheet_safe

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


_OUTCOMES = ("success", "failure", "denied", "error")
_LAZY = {
    "prune": ("llm_proxy.cli.pruning:prune_audit", "Delete old records from the table."),
    "verify": ("llm_proxy.cli.verify:verify", "Prove that no record was changed or left out."),
}


@click.group("audit", cls=ManageGroup, lazy=_LAZY)
def audit() -> None:
    """Read, verify and prune the audit trail."""


def _filter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for name in reversed(_FILTERS):
        text, closed = f"Only this {name.replace('_', ' ')}.", click.Choice(_OUTCOMES) if name == "outcome" else None
        metavar = None if closed else "TEXT"
        command = click.option(f"--{name.replace('_', '-')}", type=closed, metavar=metavar, help=text)(command)
    command = click.option("--search", metavar="TEXT", help="Only records that contain it.")(command)
    until = "Up to then, included."
    command = click.option("--until", "--end-time", "until", cls=ApiMomentOption, help=until)(command)
    since = "From then on: RFC 3339, a date, or 24h, 7d ago."
    return click.option("--since", "--start-time", "since", cls=ApiMomentOption, help=since)(command)


@audit.command(
    "list",
    examples=(
        "llm-proxy audit list --since 24h --outcome denied",
        "llm-proxy audit list --project-id 3f6a2c1e-… --action token.create --wide",
    ),
)
@_filter_options
@plain_option("--page", type=click.IntRange(1), metavar="N", help="Page (1).")
@plain_option("--page-size", type=click.IntRange(1, 100), metavar="N", help="Records a page (20).")
@plain_option("--limit", type=click.IntRange(1, 100), metavar="N", help="Records, by cursor in place of pages.")
@click.option("--cursor", metavar="TEXT", help="Where the last response ended.")
@output.wide_option
@click.option("--oldest-first", is_flag=True, help="In the order in which things happened.")
def list_events(
    page: int | None,
    page_size: int | None,
    limit: int | None,
    cursor: str | None,
    oldest_first: bool,
    **said: Any,
) -> None:
    """List records, the newest first."""
    places = {"page": page, "page_size": page_size, "limit": limit, "cursor": cursor}
    api = client()
    query = _query(api, said) | places | {"sort": "asc" if oldest_first else None}
    found = api.call("GET", "/manage/audit", query=query)
    columns = ("Time", "Action", "Actor", "Outcome", "Project", "Token", "Client", "Reason", "ID")
    names = ("action", "actor", "outcome", "project_id", "token_id", "client_ip", "reason", "id")

    def as_text() -> str:
        rows = [(output.second(event["timestamp"]), *(event.get(name) for name in names)) for event in found["events"]]
        left_out = ("Project", "Token", "Client", "Actor", "Reason")
        return output.table(columns, rows, ids=("Project", "Token", "ID"), optional=left_out)

    output.emit(found, as_text)
    if found.get("next_cursor"):
        output.note(f"More: --cursor {found['next_cursor']}")


@audit.command("show")
@click.argument("event_id", metavar="ID")
def show(event_id: str) -> None:
    """Show one record."""
    api = client()
    found = api.call("GET", f"/manage/audit/{audit_id(api, event_id)}")
    output.emit(found, lambda: output.lines({name: found[name] for name in _FIELDS if name in found}))


@audit.command("export", cls=ManageCommand)
@_filter_options
@click.option("--format", "form", type=click.Choice(["jsonl", "csv"]), default="jsonl", help="Form (jsonl).")
def export(form: str, **said: Any) -> None:
    """Write all records to stdout, the oldest first.

    They are written as they are read: a line each, with --format csv a row, with --json all of them one array.
    """
    api = client()
    query = _query(api, said)
    query.setdefault("end_time", rfc3339(utc_now()))  # reading is recorded, too
    records = _everything(api, query)
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


def _everything(api: ManagementClient, query: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Page by page, by key: what is recorded meanwhile neither shifts nor repeats a row."""
    cursor = None
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
    """Return a cell that a spreadsheet does not run: what clients sent may begin like a formula."""
    text = "" if value is None else str(value)
    return spreadsheet_safe(text)


def _query(api: ManagementClient, said: Mapping[str, Any]) -> dict[str, Any]:
    """Return the API's parameters."""
    query: dict[str, Any] = {name: said[name] for name in (*_FILTERS, "search") if said.get(name) is not None}
    if query.get("project_id") is not None:
        query["project_id"] = id_of(api, query["project_id"])
    for flag, name in (("since", "start_time"), ("until", "end_time")):
        if (written := said.get(flag)) is not None:
            query[name] = written
    return query
