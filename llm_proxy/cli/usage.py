"""`llm-proxy usage …`: what was used; cli/reconcile.py says whether the numbers agree."""

import csv
import sys
from collections.abc import Mapping
from typing import Any

import click

from llm_proxy.cli import output
from llm_proxy.cli.audit import plain_cell
from llm_proxy.cli.base import Command, commands_in
from llm_proxy.cli.datetimes import ApiMomentOption
from llm_proxy.cli.manage import ManageGroup, client, connection_options
from llm_proxy.cli.management_client import ManagementClient
from llm_proxy.cli.options import Words, plain_option
from llm_proxy.cli.references import project_id as id_of
from llm_proxy.cli.references import token_id as token_of

_PAGE = 100
_FORM = "llm_proxy.output"
_GROUPS = ("project", "token", "model", "provider", "day")
_COUNTS = {
    "requests": "Requests",
    "prompt_tokens": "Prompt",
    "completion_tokens": "Completion",
    "cached_tokens": "Cached",
    "reasoning_tokens": "Reasoning",
    "cost_usd": "USD",
    "estimated": "Estimated",
}  # fmt: skip  (head of the column by name)


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


_LAZY = commands_in("reconcile", reconcile="Compare counters, usage and events.")


@click.group("usage", cls=ManageGroup, lazy=_LAZY)
def usage() -> None:
    """Model tokens and money: what was used, and whether the numbers agree."""


@usage.command(
    "show",
    cls=_ShowCommand,
    examples=(
        "llm-proxy usage show --group-by project,model",
        "llm-proxy usage show --project-id my-team --group-by day -o csv",
    ),
)
@click.option("--from", "since", cls=ApiMomentOption, help="First day: a date or RFC 3339 (30 days ago).")
@click.option("--to", "until", cls=ApiMomentOption, help="Last day, included (today).")
@click.option("--group-by", type=Words(*_GROUPS), metavar="LIST", help="Of project, token, model, provider, day.")
@click.option("--project-id", "--project", metavar="PROJECT", help="Only this project.")
@click.option("--token-id", metavar="ID", help="Only this token.")
@click.option("--model", metavar="NAME", help="Only this model.")
@click.option("--provider", metavar="NAME", help="Only this provider.")
@plain_option("--limit", type=click.IntRange(1, 100), metavar="N", help="Rows at most; without it, all.")
@click.option("--cursor", metavar="TEXT", help="Where the last response ended.")
def show(
    since: str | None,
    until: str | None,
    group_by: str | None,
    project_id: str | None,
    token_id: str | None,
    model: str | None,
    provider: str | None,
    limit: int | None,
    cursor: str | None,
) -> None:
    """Show sums of requests, model tokens and money."""
    api = client()
    project_id = None if project_id is None else id_of(api, project_id)
    token_id = None if token_id is None else token_of(api, token_id)
    query = {"from": since, "to": until, "group_by": group_by, "project_id": project_id, "token_id": token_id}
    query |= {"model": model, "provider": provider}
    found = _pages(api, query, limit, cursor)
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


def _pages(
    api: ManagementClient, query: Mapping[str, str | None], limit: int | None, cursor: str | None
) -> dict[str, Any]:
    """One page where it is asked for, else all of them."""
    rows = list[Any]()
    while True:
        found = api.call("GET", "/manage/usage", query={**query, "limit": limit or _PAGE, "cursor": cursor})
        rows += found["data"]
        cursor = found["next_cursor"]
        if cursor is None or limit is not None:
            return {"data": rows, "next_cursor": cursor}


def _table(groups: list[str], rows: list[Mapping[str, Any]]) -> str:
    heads = [name.capitalize() for name in groups] + list(_COUNTS.values())
    return output.table(
        heads,
        [[row.get(name) for name in (*groups, *_COUNTS)] for row in rows],
        ids=("Project", "Token"),
        optional=("Estimated", "Reasoning", "Cached"),
    )
