"""`llm-proxy manage token …`."""

import math
import re
from collections.abc import Mapping
from typing import Any

import click

from llm_proxy.cli import output
from llm_proxy.cli.errors import CommandError
from llm_proxy.cli.fields import body_of, field_options, plain
from llm_proxy.cli.manage import ManageGroup, client
from llm_proxy.cli.options import given, label, nullable, plain_option, read_secret, sort_option
from llm_proxy.cli.references import names_of, segment
from llm_proxy.cli.references import project_id as id_of
from llm_proxy.cli.references import token_id as token_of
from llm_proxy.model.token_fields import TOKEN_FIELDS
from llm_proxy.settings.variable import duration_s
from llm_proxy.tokens.bearer import hint

_DEFAULT_MINUTES = "1440"
_SHORT_MINUTES = 60
_STATUSES = ("active", "expired", "revoked", "rate_limited")  # of the API; its module would load the database's library
_MORE = (*(field.name for field in TOKEN_FIELDS if field.has_option), "total_tokens", "total_cost_usd")


_LAZY = {"prune": ("llm_proxy.cli.pruning:prune_tokens", "Delete tokens that were revoked or have expired long ago.")}


@click.group("token", cls=ManageGroup, lazy=_LAZY)
def token() -> None:
    """Withering tokens."""


@token.command(
    "generate",
    examples=(
        "llm-proxy manage token generate --project-id my-team --duration 24h",
        "llm-proxy manage token generate --project-id my-team --max-cost-usd 5",
    ),
)
@click.option("--project-id", "--project", metavar="PROJECT", required=True, help="Project: name, id or its beginning.")
@click.option(
    "--duration", metavar="TIME", default=_DEFAULT_MINUTES, help="Minutes, or with a unit: 90m, 24h, 7d (1440)."
)
@plain_option("--max-requests", type=click.IntRange(0), metavar="N", help="Requests in all; 0 = no limit.")
@field_options(TOKEN_FIELDS)
def generate(project_id: str, duration: str, max_requests: int | None, **said: str | None) -> None:
    """Issue a token; it is shown this once."""
    minutes = duration_minutes(duration)
    api = client()
    body = {"project_id": id_of(api, project_id), "duration_minutes": minutes, **body_of(TOKEN_FIELDS, said)}
    if max_requests is not None:  # 0 says no limit; without it the server's default holds
        body["max_requests"] = max_requests
    issued = api.call("POST", "/manage/tokens", body=body)
    value = {name: issued.get(name) for name in ("id", "token", "expires_at", "max_requests")}
    limits = {"max_requests": issued.get("max_requests"), **{name: body[name] for name in _MORE if name in body}}

    def as_text() -> str:
        return output.lines(
            {
                "ID": issued["id"],
                "Token": issued["token"],
                "Obfuscated": hint(issued["token"]),
                "Expires at": output.minute(issued["expires_at"]),
                **{label(name): plain(limit) for name, limit in limits.items() if limit},
            }
        )

    output.emit(value, as_text)


@token.command("roll", examples=("llm-proxy manage token roll TOKEN-ID --overlap 1h",))
@click.argument("token_id", metavar="ID")
@click.option("--overlap", metavar="TIME", default="0", help="The old token works for so long: 30m, 1h (0).")
def roll(token_id: str, overlap: str) -> None:
    """Replace a token by one with the same limits; it is shown this once."""
    api = client()
    minutes = 0 if overlap.strip() == "0" else duration_minutes(overlap)
    path = f"/manage/tokens/{segment(token_of(api, token_id))}/roll"
    issued = api.call("POST", path, body={"overlap_minutes": minutes})
    about = {"ID": issued["id"], "Token": issued["token"], "Expires at": output.minute(issued["expires_at"]) or "never"}
    output.emit(issued, lambda: output.lines(about))


@token.command("refusals")
@click.argument("token_id", metavar="ID")
def refusals(token_id: str) -> None:
    """Show why and when a token was last refused."""
    found = _call("GET", token_id, what="/refusals")
    columns = ("Code", "Last", "Times", "Request")
    output.emit_table(
        found, columns, lambda row: (row["code"], output.minute(row["refused_at"]), row["refusals"], row["request_id"])
    )


@token.command("list")
@click.option("--project-id", "--project", metavar="PROJECT", help="Only this project's.")
@click.option("--active-only", is_flag=True, help="Only those that work now.")
@click.option("--status", type=click.Choice(_STATUSES), help="Only those in this state.")
@click.option("--search", metavar="TEXT", help="Only ids that begin with it.")
@sort_option("created_at, expires_at, last_used_at or request_count")
@output.wide_option
def list_tokens(project_id: str | None, active_only: bool, **said: str | None) -> None:
    """List the tokens, the newest first."""
    api = client()
    only = None if project_id is None else id_of(api, project_id)
    query = {"project_id": only, "active_only": "true" if active_only else None, **said}
    found = api.call("GET", "/manage/tokens", query=query)
    columns = ("ID", "Project", "Token", "Status", "Requests", "Cached", "Expires", "Last used")

    def as_text() -> str:
        names = names_of(api) if output.is_narrow() else {}
        rows = [
            (
                *(t["id"], names.get(t["project_id"], t["project_id"]), t["token"], t["status"]),
                *(_requests(t), t["cache_hit_count"]),
                *(output.minute(t["expires_at"]) or "never", output.minute(t["last_used_at"])),
            )
            for t in found
        ]
        return output.table(columns, rows, ids=("ID",), optional=("Cached", "Last used", "Token"))

    output.emit(found, as_text)


@token.command("get")
@click.argument("token_id", metavar="ID")
def get_token(token_id: str) -> None:
    """Show one token; ID is its id, not its value."""
    _show(_call("GET", token_id))


@token.command("update")
@click.argument("token_id", metavar="ID")
@click.option("--active/--inactive", "is_active", default=None, help="Let it work, or revoke it.")
@click.option("--max-requests", metavar="N|none", help="Requests in all; 0 or none = no limit.")
@field_options(TOKEN_FIELDS)
def update(token_id: str, is_active: bool | None, max_requests: str | None, **said: str | None) -> None:
    """Change a token."""
    body = given(is_active=is_active) | body_of(TOKEN_FIELDS, said)
    if max_requests is not None:
        body["max_requests"] = nullable("max_requests", max_requests)
    if not body:
        raise CommandError("at least one of --active, --inactive, --max-requests or a limit's flag must be set")
    _show(_call("PATCH", token_id, body))


@token.command(
    "lookup",
    examples=("llm-proxy manage token lookup @leaked.txt", "llm-proxy manage token lookup --sha256 HASH"),
)
@click.argument("value", metavar="[-|@FILE]", required=False)
@click.option("--sha256", metavar="HASH", help="In place of the token: its SHA-256, 64 hexadecimal digits.")
def lookup(value: str | None, sha256: str | None) -> None:
    """Show the token of a value that was found somewhere.

    The value is read from stdin, a file or the terminal; as an argument, other users would see it in the process list.
    """
    if sha256 is None and value is not None and value != "-" and not value.startswith("@"):
        raise CommandError("the token stands in the process list as an argument: use - for stdin, or @FILE")
    if sha256 is not None and value is not None:
        raise CommandError("either a token or --sha256")
    body = {"sha256": sha256} if sha256 is not None else {"token": read_secret("token", value or "-")}
    _show(client().call("POST", "/manage/tokens/lookup", body=body))


@token.command("revoke")
@click.argument("token_ids", metavar="ID...", nargs=-1, required=True)
def revoke(token_ids: tuple[str, ...]) -> None:
    """Revoke tokens; several in one call."""
    if len(token_ids) == 1:
        _call("DELETE", token_ids[0])
        output.emit({"id": token_ids[0], "revoked": True}, lambda: "Token revoked")
        return
    api = client()
    found = api.call("POST", "/manage/tokens/revoke", body={"ids": [token_of(api, each) for each in token_ids]})
    unknown = found["unknown_ids"]
    shown = {
        "Revoked": found["revoked_count"],
        "Were before": found["already_revoked_count"],
        **({"Unknown": ", ".join(unknown)} if unknown else {}),
    }
    output.emit(found, lambda: output.lines(shown))
    if unknown:
        raise click.exceptions.Exit(1)


def _call(method: str, written: str, body: Any = None, what: str = "") -> Any:
    api = client()
    return api.call(method, f"/manage/tokens/{segment(token_of(api, written))}{what}", body=body)


def duration_minutes(written: str, option: str = "--duration") -> int:
    """Whole minutes of `1440` (minutes), `90m`, `24h`, `7d`; a short bare number gets a hint."""
    if re.fullmatch(r"[0-9]+", written):
        minutes = int(written)
        if 0 < minutes < _SHORT_MINUTES:
            output.note(f"Hint: {minutes} means minutes; for hours write {minutes}h")
    else:
        try:
            minutes = math.ceil(duration_s(written) / 60)
        except ValueError:
            raise CommandError(f"{option}: expected minutes, or a duration such as 90m, 24h or 7d") from None
    if minutes <= 0:
        raise CommandError(f"{option} must be more than 0")
    return minutes


def _requests(about: Mapping[str, Any]) -> str:
    limit = about["max_requests"]
    return str(about["request_count"]) if limit is None else f"{about['request_count']}/{limit}"


def _show(about: Mapping[str, Any]) -> None:
    def as_text() -> str:
        shown = {
            "ID": about["id"],
            "Project": about["project_id"],
            "Token": about["token"],
            "Status": about["status"],
            "Requests": _requests(about),
            "Cached": about["cache_hit_count"],
            "Created": output.minute(about["created_at"]),
            "Expires": output.minute(about["expires_at"]) or "never",
            "Last used": output.minute(about["last_used_at"]),
        }
        return output.lines(shown | {label(name): plain(about[name]) for name in _MORE if about.get(name)})

    output.emit(about, as_text)
