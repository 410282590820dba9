"""`llm-proxy manage project …`."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from llm_proxy.cli import output
from llm_proxy.cli.errors import CommandError
from llm_proxy.cli.fields import body_of, field_options, plain
from llm_proxy.cli.manage import ManageGroup, client
from llm_proxy.cli.management_client import ManagementClient
from llm_proxy.cli.options import given, label, read_secret, sort_option
from llm_proxy.cli.references import project_id as id_of
from llm_proxy.cli.references import segment
from llm_proxy.model.project import PROJECT_FIELDS

_NAMES = tuple(field.name for field in PROJECT_FIELDS)


@click.group("project", cls=ManageGroup)
def project() -> None:
    """Projects and their provider keys."""


def _show(about: Mapping[str, Any]) -> None:
    def as_text() -> str:
        return output.lines(
            {
                "ID": about["id"],
                "Name": about["name"],
                "API Key": about["api_key"],
                "Active": about["is_active"],
                "Created": output.minute(about["created_at"]),
                "Updated": output.minute(about["updated_at"]),
                **{label(name): plain(about[name]) for name in _NAMES if about.get(name) is not None},
            }
        )

    output.emit(about, as_text)


def _number(count: Mapping[str, Any] | None) -> str | None:
    """Return a count as text; None where the server is of a version that tells none."""
    return None if count is None else f"{count['count']}{'+' if count['is_more'] else ''}"


@project.command("list")
@click.option("--search", metavar="TEXT", help="Only names that contain it.")
@click.option("--active/--inactive", "is_active", default=None, help="Only projects that are, or are not, active.")
@click.option("--token-counts", is_flag=True, help="Say how many tokens each project has.")
@sort_option("name, created_at or updated_at")
@output.wide_option
def list_projects(search: str | None, is_active: bool | None, token_counts: bool, sort: str | None) -> None:
    """List the projects."""
    active = None if is_active is None else str(is_active).lower()
    query = {"search": search, "is_active": active, "token_counts": "true" if token_counts else None, "sort": sort}
    found = client().call("GET", "/manage/projects", query=query)
    columns = ("ID", "Name", "API Key", "Active", *(("Tokens",) if token_counts else ()), "Created", "Updated")

    def row(p: Mapping[str, Any]) -> Sequence[Any]:
        counted = (_number(p.get("tokens")),) if token_counts else ()
        times = map(output.minute, (p["created_at"], p["updated_at"]))
        return (p["id"], p["name"], p["api_key"], p["is_active"], *counted, *times)

    output.emit_table(found, columns, row, ids=("ID",), optional=("Updated", "API Key", "Created"))


@project.command("get")
@click.argument("project_id", metavar="PROJECT")
def get_project(project_id: str) -> None:
    """Show one project."""
    api = client()
    _show(api.call("GET", f"/manage/projects/{_segment(api, project_id)}"))


@project.command(
    "create",
    examples=(
        "llm-proxy manage project create --name my-team    # asks for the provider key",
        "llm-proxy manage project create --name my-team --openai-key @key.txt",
    ),
)
@click.option("--name", metavar="NAME", help="Name, not used yet.")
@click.option("--openai-key", "--api-key", "api_key", metavar="KEY|-|@FILE", help="Provider key; - reads stdin.")
@click.option("--no-key", is_flag=True, help="With PROVIDERS: without a key; `set-key` gives it some.")
@field_options(PROJECT_FIELDS)
def create_project(name: str | None, api_key: str | None, no_key: bool, **said: str | None) -> None:
    """Create a project with its provider key."""
    key = None if no_key else read_secret("--openai-key", api_key, prompt="Provider key" if name else None)
    if not name or not (key or no_key):
        raise CommandError("--name and --openai-key are required")
    body = {"name": name, **given(api_key=key), **body_of(PROJECT_FIELDS, said)}
    _show(client().call("POST", "/manage/projects", body=body))


@project.command("update")
@click.argument("project_id", metavar="PROJECT")
@click.option("--name", metavar="NAME", help="New name.")
@click.option("--openai-key", "--api-key", "api_key", metavar="KEY|-|@FILE", help="New provider key; - reads stdin.")
@click.option("--is-active", type=click.BOOL, metavar="true|false", help="Activate or deactivate it.")
@click.option("--revoke-tokens", is_flag=True, help="With --is-active false: revoke its tokens.")
@field_options(PROJECT_FIELDS)
def update_project(
    project_id: str,
    name: str | None,
    api_key: str | None,
    is_active: bool | None,
    revoke_tokens: bool,
    **said: str | None,
) -> None:
    """Change a project."""
    body = given(name=name, api_key=read_secret("--openai-key", api_key), is_active=is_active)
    body |= body_of(PROJECT_FIELDS, said)
    if revoke_tokens:
        body["revoke_tokens"] = True
    if not body:
        raise CommandError(
            "at least one of --name or --openai-key must be set, or one of --is-active and the limits' flags"
        )
    _patch(project_id, body)


@project.command("activate")
@click.argument("project_id", metavar="PROJECT")
def activate(project_id: str) -> None:
    """Let a project's tokens work again."""
    _patch(project_id, {"is_active": True})


@project.command("deactivate")
@click.argument("project_id", metavar="PROJECT")
@click.option("--revoke-tokens", is_flag=True, help="Revoke its tokens as well.")
def deactivate(project_id: str, revoke_tokens: bool) -> None:
    """Refuse a project's tokens."""
    _patch(project_id, {"is_active": False, **({"revoke_tokens": True} if revoke_tokens else {})})


@project.command("revoke-tokens")
@click.argument("project_id", metavar="PROJECT")
def revoke_tokens(project_id: str) -> None:
    """Revoke every token of a project."""
    api = client()
    found = api.call("POST", f"/manage/projects/{_segment(api, project_id)}/tokens/revoke")
    names = {"revoked_count": "Revoked", "already_revoked_count": "Already revoked", "total_tokens": "Total"}
    output.emit(found, lambda: output.lines({text: found[name] for name, text in names.items()}))


@project.command("set-key", examples=("llm-proxy manage project set-key my-team anthropic    # asks for the key",))
@click.argument("project_id", metavar="PROJECT")
@click.argument("provider", metavar="PROVIDER")
@click.option("--key", "api_key", metavar="KEY|-|@FILE", help="The key; - reads stdin.")
def set_key(project_id: str, provider: str, api_key: str | None) -> None:
    """Set a project's key for a provider beside the default one."""
    key = read_secret("--key", api_key, prompt="Provider key")
    if not key:
        raise CommandError("--key is required")
    api = client()
    path = f"/manage/projects/{_segment(api, project_id)}/provider-keys/{segment(provider)}"
    stored = api.call("PUT", path, body={"api_key": key})
    output.emit(stored, lambda: output.lines({"Provider": stored["provider"], "API Key": stored["api_key"]}))


@project.command("list-keys")
@click.argument("project_id", metavar="PROJECT")
def list_keys(project_id: str) -> None:
    """List a project's provider keys, obfuscated."""
    api = client()
    found = api.call("GET", f"/manage/projects/{_segment(api, project_id)}/provider-keys")
    columns = ("Provider", "API Key", "Updated")
    output.emit_table(found, columns, lambda key: (key["provider"], key["api_key"], output.minute(key["updated_at"])))


@project.command("remove-key")
@click.argument("project_id", metavar="PROJECT")
@click.argument("provider", metavar="PROVIDER")
def remove_key(project_id: str, provider: str) -> None:
    """Remove a project's key for a provider."""
    api = client()
    api.call("DELETE", f"/manage/projects/{_segment(api, project_id)}/provider-keys/{segment(provider)}")
    output.emit({"provider": provider, "removed": True}, lambda: "Key removed")


@project.command("delete")
@click.argument("project_id", metavar="PROJECT")
def delete_project(project_id: str) -> None:
    """Not possible: projects are deactivated."""
    try:
        api = client()
        api.call("DELETE", f"/manage/projects/{_segment(api, project_id)}")
    except CommandError as refusal:
        if refusal.status == 405:
            output.note(f"Hint: llm-proxy manage project deactivate {project_id} --revoke-tokens")
        raise


def _patch(project_id: str, body: Mapping[str, Any]) -> None:
    api = client()
    _show(api.call("PATCH", f"/manage/projects/{_segment(api, project_id)}", body=body))


def _segment(api: ManagementClient, written: str) -> str:
    return segment(id_of(api, written))
