"""`llm-proxy manage stream`, `session`, `stats`, `outcomes`, …: what a running server says of itself."""

import json
from datetime import timedelta
from typing import Any

import click

from llm_proxy.cli import output
from llm_proxy.cli.manage import ManageCommand, ManageGroup, client
from llm_proxy.cli.references import segment
from llm_proxy.runtime.clock import utc_now

_TRAFFIC = (
    "requests", "errors", "first_byte_p95_ms", "duration_p50_ms", "duration_p95_ms", "cache_hits", "cache_misses",
    "cost_usd",
)  # fmt: skip
stream = ManageGroup("stream", help="Requests that run now.")
session = ManageGroup("session", help="People who are signed in.")


@stream.command("list")
def list_streams() -> None:
    """List what runs in all workers of the server."""
    found = client().call("GET", "/manage/streams")
    columns = ("id", "kind", "model", "method", "path", "project_id", "token_id", "started_at", "response_bytes")
    _emit_rows(found, columns)


@stream.command("cut")
@click.argument("stream_id", metavar="ID")
def cut(stream_id: str) -> None:
    """Cut one; the client sees its response end."""
    client().call("DELETE", f"/manage/streams/{segment(stream_id)}")
    output.emit({"id": stream_id, "cut": True}, lambda: "Request cut")


@session.command("list")
def list_sessions() -> None:
    """List sessions of the admin UI."""
    found = client().call("GET", "/manage/sessions")
    _emit_rows(found, ("id", "actor", "role", "method", "client_ip", "created_at", "last_seen_at"))


@session.command("end")
@click.argument("session_id", metavar="ID")
def end_session(session_id: str) -> None:
    """End a session."""
    client().call("DELETE", f"/manage/sessions/{segment(session_id)}")
    output.emit({"id": session_id, "ended": True}, lambda: "Session ended")


@click.command("stats", cls=ManageCommand)
def stats() -> None:
    """Show totals of projects, tokens, requests and money."""
    found = client().call("GET", "/manage/stats")
    output.emit(found, lambda: output.lines(_totals(found)))


@click.command("settings", cls=ManageCommand)
def settings() -> None:
    """Show the settings in force in the server, secrets left out."""
    found = client().call("GET", "/manage/settings")
    _emit_rows(found, ("variable", "value", "source"))


@click.command("findings", cls=ManageCommand)
def findings() -> None:
    """Show what doctor finds in the server."""
    found = client().call("GET", "/manage/doctor")
    rows = found["findings"]
    shown = [[row["level"], row["code"], row["what"]] for row in rows]
    output.emit(found, lambda: output.table(("Level", "Code", "Finding"), shown))


@click.command("bus", cls=ManageCommand)
def bus() -> None:
    """Show length and lag of the event bus."""
    found = client().call("GET", "/manage/dispatcher")
    names = ("bus", "key", "length", "lag", "dead_letters")
    output.emit(found, lambda: output.lines({name: found[name] for name in names}))


@click.command("outcomes", cls=ManageCommand)
@click.option("--group-by", metavar="LIST", default="code", help="Of project, token, code, hour (code).")
@click.option("--project-id", metavar="ID", help="Only this project.")
@click.option("--token-id", metavar="ID", help="Only this token.")
def outcomes(group_by: str, project_id: str | None, token_id: str | None) -> None:
    """Show how the requests of the last day ended."""
    query = {"group_by": group_by, "project_id": project_id, "token_id": token_id}
    found = client().call("GET", "/manage/outcomes", query=query)
    rows = found["data"]
    _emit_rows(rows, tuple(rows[0]) if rows else ("code", "requests"))


@click.command("audit-chain", cls=ManageCommand)
@click.option("--verify", is_flag=True, help="Verify it now; without it, the last verification is shown.")
def audit_chain(verify: bool) -> None:
    """Show whether the audit trail in the server's database is whole.

    Exits with 1 if it is broken. `llm-proxy audit verify` reads the database, or files, itself.
    """
    found = client().call("POST" if verify else "GET", "/manage/audit/verification")
    shown = {name.replace("_", " ").capitalize(): found[name] for name in found if name != "faults"}
    faults = [json.dumps(fault, ensure_ascii=False) for fault in found["faults"] or ()]
    output.emit(found, lambda: "\n".join([output.lines(shown), *(f"BROKEN: {fault}" for fault in faults)]))
    if found["state"] == "broken":
        raise click.exceptions.Exit(1)


@click.command("traffic", cls=ManageCommand)
@click.option("--by", type=click.Choice(("hour", "day")), default="hour", help="Interval (hour).")
@click.option("--from", "first", metavar="TIME", help="First hour or day (a day ago; with --by day, 30 days ago).")
@click.option("--to", "last", metavar="TIME", help="Last hour or day (now).")
@click.option("--project-id", metavar="ID", help="Only this project.")
def traffic(by: str, first: str | None, last: str | None, project_id: str | None) -> None:
    """Show requests, errors, latency, cache and money by hour or UTC day."""
    if by == "day" and first is None and last is None:
        first = (utc_now().date() - timedelta(days=29)).isoformat()
    query = {"group_by": by, "from": first, "to": last, "project_id": project_id}
    _emit_rows(client().call("GET", "/manage/traffic", query=query)["data"], (by, *_TRAFFIC))


def _emit_rows(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    heads = [name.replace("_", " ").capitalize() for name in columns]
    output.emit(rows, lambda: output.table(heads, [[row[name] for name in columns] for row in rows]))


def _totals(found: dict[str, Any]) -> dict[str, Any]:
    counts = {
        name.replace("_", " ").capitalize(): f"{found[name]['count']}{'+' if found[name]['is_more'] else ''}"
        for name in ("projects", "tokens", "active_tokens", "expired_tokens", "tokens_used_24h")
    }
    today, month = found["today"], found["month"]
    return {
        **counts,
        "Requests today": today["requests"],
        "Failed today": today["failed"],
        "USD today": today["cost_usd"],
        "USD this month": month["cost_usd"],
    }
