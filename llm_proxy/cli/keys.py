"""`llm-proxy manage key …` and `llm-proxy whoami`."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from llm_proxy.cli import output
from llm_proxy.cli.errors import CommandError
from llm_proxy.cli.manage import ManageCommand, ManageGroup, client
from llm_proxy.cli.management_client import ManagementClient
from llm_proxy.cli.options import given, sort_option
from llm_proxy.cli.references import project_id as id_of
from llm_proxy.cli.references import segment
from llm_proxy.cli.tokens import duration_minutes

_ROLES = "viewer, operator, issuer or admin"


@click.group("key", cls=ManageGroup)
def key() -> None:
    """Manage the keys of programs for the management API."""


def _grant_options(command: Any) -> Any:
    for names, options in (
        (
            ["--duration"],
            {"metavar": "TIME|none", "help": "Lifetime: minutes, or 90m, 24h, 7d; none = no end."},
        ),
        (["--all-projects"], {"is_flag": True, "help": "All projects, those that are made later too."}),
        (
            ["--project-id", "--project", "project_ids"],
            {"metavar": "PROJECT", "multiple": True, "help": "Only this project; repeat it for more."},
        ),
        (["--role"], {"metavar": "ROLE", "help": f"{_ROLES}."}),
        (["--name"], {"metavar": "NAME", "help": "A name for people; unique."}),
    ):
        command = click.option(*names, **options)(command)
    return command


@key.command(
    "create",
    examples=("llm-proxy manage key create --name ci --role issuer --project my-team",),
)
@_grant_options
def create(name: str | None, role: str | None, **said: Any) -> None:
    """Make a key; it is shown this once. Without --project-id it is for all projects."""
    if not name or not role:
        raise CommandError("--name and --role are required")
    api = client()
    made = api.call("POST", "/manage/keys", body={"name": name, "role": role, **_grant(api, **said)})
    output.emit(made, lambda: _text(made, secret=made["key"]))


@key.command("list")
@click.option("--search", metavar="TEXT", help="Only names that contain it.")
@sort_option("name, created_at, expires_at or last_used_at")
def list_keys(search: str | None, sort: str | None) -> None:
    """List the keys that are not stronger than the caller."""
    found = client().call("GET", "/manage/keys", query={"search": search, "sort": sort})
    columns = ("ID", "Name", "Role", "Projects", "Expires", "Last used", "Created by")

    def row(k: Mapping[str, Any]) -> Sequence[Any]:
        times = (output.minute(k["expires_at"]) or "never", output.minute(k["last_used_at"]))
        return (k["id"], k["name"], k["role"], _projects(k["projects"]), *times, k["created_by"])

    output.emit_table(found, columns, row, ids=("ID",), optional=("Created by", "Last used"))


@key.command("get")
@click.argument("key_id", metavar="ID")
def get_key(key_id: str) -> None:
    """Show one key; ID is its id, not its value."""
    found = client().call("GET", f"/manage/keys/{segment(key_id)}")
    output.emit(found, lambda: _text(found))


@key.command("update")
@click.argument("key_id", metavar="ID")
@_grant_options
def update(key_id: str, name: str | None, role: str | None, **said: Any) -> None:
    """Change a key; what is not named stays."""
    api = client()
    body = {**given(name=name, role=role), **_grant(api, **said)}
    if not body:
        raise CommandError("at least one of --name, --role, --project-id, --all-projects, --duration must be set")
    changed = api.call("PATCH", f"/manage/keys/{segment(key_id)}", body=body)
    output.emit(changed, lambda: _text(changed))


@key.command("roll", examples=("llm-proxy manage key roll KEY-ID --overlap 1h",))
@click.argument("key_id", metavar="ID")
@click.option("--overlap", metavar="TIME", default="0", help="The old key works for so long: 30m, 1h (0).")
def roll(key_id: str, overlap: str) -> None:
    """Replace a key's secret; the new one is shown this once."""
    minutes = 0 if overlap.strip() == "0" else duration_minutes(overlap, "--overlap")
    rolled = client().call("POST", f"/manage/keys/{segment(key_id)}/roll", body={"overlap_minutes": minutes})
    output.emit(rolled, lambda: _text(rolled, secret=rolled["key"]))


@key.command("revoke")
@click.argument("key_id", metavar="ID")
def revoke(key_id: str) -> None:
    """Revoke a key; within a second it is refused everywhere."""
    client().call("DELETE", f"/manage/keys/{segment(key_id)}")
    output.emit({"id": key_id, "revoked": True}, lambda: f"Key {key_id} revoked")


@click.command("whoami", cls=ManageCommand)
def whoami() -> None:
    """Show the caller of the credential: actor, role, projects, end."""
    found = client().call("GET", "/manage/whoami")
    about = {
        "Actor": found["actor"],
        "Role": found["role"],
        "Projects": _projects(found["projects"]),
        "Expires": output.minute(found["expires_at"]) or "never",
    }
    output.emit(found, lambda: output.lines(about))


def _grant(
    api: ManagementClient, project_ids: Sequence[str], all_projects: bool, duration: str | None
) -> dict[str, Any]:
    if project_ids and all_projects:
        raise CommandError("--project-id and --all-projects exclude each other")
    body: dict[str, Any] = {"projects": [id_of(api, each) for each in project_ids]} if project_ids else {}
    if all_projects:
        body["projects"] = None
    if duration == "none":
        body["expires_at"] = None
    elif duration is not None:
        body["duration_minutes"] = duration_minutes(duration)
    return body


def _projects(ids: Sequence[str] | None) -> str:
    return "all" if ids is None else ", ".join(ids)


def _text(about: Mapping[str, Any], secret: str | None = None) -> str:
    return output.lines(
        {
            "ID": about["id"],
            "Name": about["name"],
            **({} if secret is None else {"Key": secret}),
            "Role": about["role"],
            "Projects": _projects(about["projects"]),
            "Expires": output.minute(about["expires_at"]) or "never",
            "Created": output.minute(about["created_at"]),
            "Created by": about["created_by"],
            "Last used": output.minute(about["last_used_at"]),
        }
    )
