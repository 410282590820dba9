"""`llm-proxy setup`: an env file, a database, a first project and token."""

import os
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import click
from dotenv import dotenv_values

from llm_proxy.cli import envfile, output
from llm_proxy.cli.base import Command
from llm_proxy.cli.direct import DirectClient
from llm_proxy.cli.environment import as_flag, load_settings, settings
from llm_proxy.cli.errors import CommandError
from llm_proxy.cli.first_steps import first_request, missing_secrets
from llm_proxy.cli.options import plain_option, read_secret
from llm_proxy.cli.ports import place
from llm_proxy.db import migrate
from llm_proxy.db.engine import create_engine
from llm_proxy.db.errors import DatabaseFault
from llm_proxy.settings import Loaded, Settings

_COMMENTS = {"OPENAI_API_KEY": "Used by setup and bin/up only: the proxy takes provider keys from its projects."}
_DEFAULTS = {"DATABASE_PATH": "data/llm-proxy.db", "LISTEN_ADDR": "localhost:8080", "LOG_LEVEL": "info"}


@dataclass(slots=True)
class Wanted:
    """What the env file shall say, and the first project; empty means that nothing was said."""

    openai_key: str
    management_token: str
    database_path: str
    listen_addr: str
    project: str
    hours: int


@click.command(
    "setup",
    cls=Command,
    examples=("llm-proxy setup", "llm-proxy setup --openai-key @key.txt --project my-team --duration 24"),
)
@click.option("--config", default=".env", type=click.Path(), metavar="PATH", help="Env file to write (.env).")
@click.option("--interactive", is_flag=True, help="Ask for each value.")
@click.option("--openai-key", metavar="KEY|-|@FILE", help="Provider key of the project.")
@click.option("--management-token", metavar="TOKEN|-|@FILE", help="Bearer for /manage; made when missing.")
@click.option("--project", default="DefaultProject", metavar="NAME", help="Name of the project (DefaultProject).")
@plain_option("--duration", type=click.IntRange(1, 8760), default=24, metavar="HOURS", help="Token's life (24).")
@click.option("--skip-project", is_flag=True, help="Make no project and no token.")
@click.option("--db", type=click.Path(), metavar="PATH", help="The SQLite file (data/llm-proxy.db).")
@click.option("--addr", metavar="ADDRESS", help="Address to listen on (localhost:8080).")
def setup(
    config: str,
    interactive: bool,
    openai_key: str | None,
    management_token: str | None,
    project: str,
    duration: int,
    skip_project: bool,
    db: str | None,
    addr: str | None,
) -> None:
    """Write an env file, migrate, and make a project with a token.

    A file that is there is edited in place: other lines stay as they are, and its old text is kept beside it. The
    provider key goes into the project, sealed by an ENCRYPTION_KEY that is made when there is none. On a terminal,
    values are asked for when no key is given.
    """
    path = Path(config)
    there = {name: value for name, value in dotenv_values(path, interpolate=False).items() if value}
    wanted = Wanted(
        openai_key=read_secret("--openai-key", openai_key) or there.get("OPENAI_API_KEY", ""),
        management_token=read_secret("--management-token", management_token) or there.get("MANAGEMENT_TOKEN", ""),
        database_path=db or there.get("DATABASE_PATH") or _DEFAULTS["DATABASE_PATH"],
        listen_addr=addr or there.get("LISTEN_ADDR") or _DEFAULTS["LISTEN_ADDR"],
        project=project,
        hours=duration,
    )
    if interactive or (not wanted.openai_key and not skip_project and output.is_terminal()):
        _ask(wanted, path, skip_project)
    if not wanted.openai_key and not skip_project:
        output.note("Hint: give it by --openai-key - (stdin) or --openai-key @FILE, or run setup --interactive")
        raise CommandError("OpenAI API key is required")
    made_token = not wanted.management_token
    wanted.management_token = wanted.management_token or envfile.SECRETS["MANAGEMENT_TOKEN"].make()
    said = _said(wanted, there, skip_project)
    if fault := _fault(path, {name: value for name, value in said.items() if there.get(name) != value}):
        raise CommandError(fault)
    _write(path, wanted, said, there)
    found = settings(config)
    _migrate(found)
    click.echo(f"Configuration written to {path}")
    if made_token:
        shown = wanted.management_token if sys.stdout.isatty() else f"see MANAGEMENT_TOKEN in {path}"
        click.echo(f"Management token: {shown}")
    if not skip_project:
        _make_project(found, wanted, path)


def _loaded(path: Path, said: Mapping[str, str]) -> Loaded:
    """Read the settings as they will be; of a file that is not there yet nothing comes, from no other file either."""
    return load_settings(str(path) if path.exists() else os.devnull, **said)


def _fault(path: Path, said: Mapping[str, str], names: Collection[str] | None = None) -> str | None:
    """Return what is wrong with a value that the env file shall hold, or with `names`; None when all can be used."""
    loaded = _loaded(path, said)
    judged = {*said, *_DEFAULTS, "MANAGEMENT_TOKEN"} if names is None else names
    return next((as_flag(fault, loaded) for fault in loaded.faults if fault.partition("=")[0] in judged), None)


def _ask(wanted: Wanted, path: Path, skip_project: bool) -> None:
    """Ask for a value, again while it is wrong; an empty response keeps what is shown.

    Secrets are neither shown nor echoed.
    """

    def ask(text: str, value: str, name: str) -> str:
        def checked(response: str) -> str:
            if fault := _fault(path, {name: response}, {name}):
                raise click.BadParameter(fault)
            return response

        return str(click.prompt(text, default=value, err=True, value_proc=checked))

    def ask_secret(text: str, value: str, otherwise: str) -> str:
        shown = "keep" if value else otherwise
        response = click.prompt(f"{text} [{shown}]", default="", hide_input=True, show_default=False, err=True)
        return str(response).strip() or value

    wanted.openai_key = ask_secret("OpenAI API key", wanted.openai_key, "none")
    wanted.management_token = ask_secret("Management token", wanted.management_token, "make one")
    wanted.database_path = ask("Database file", wanted.database_path, "DATABASE_PATH")
    wanted.listen_addr = ask("Listen address", wanted.listen_addr, "LISTEN_ADDR")
    if not skip_project:
        wanted.project = str(click.prompt("Project", default=wanted.project, err=True))
        wanted.hours = click.prompt(
            "Token's life in hours", default=wanted.hours, type=click.IntRange(1, 8760), err=True
        )


def _said(wanted: Wanted, there: dict[str, str], skip_project: bool) -> dict[str, str]:
    """Return what the env file shall hold by variable, without what was not said."""
    said = {
        "OPENAI_API_KEY": wanted.openai_key if skip_project else "",  # else the project holds it
        "MANAGEMENT_TOKEN": wanted.management_token,
        "DATABASE_PATH": wanted.database_path,
        "LISTEN_ADDR": wanted.listen_addr,
        "LOG_LEVEL": there.get("LOG_LEVEL", _DEFAULTS["LOG_LEVEL"]),
    }
    return {name: value for name, value in said.items() if value}


def _write(path: Path, wanted: Wanted, said: dict[str, str], there: dict[str, str]) -> None:
    changes = {name: value for name, value in said.items() if there.get(name) != value}
    missing = missing_secrets(_loaded(path, {"DATABASE_PATH": wanted.database_path}))
    if "ENCRYPTION_KEY" in missing:
        changes["ENCRYPTION_KEY"] = envfile.SECRETS["ENCRYPTION_KEY"].make()
    try:
        envfile.edit(path, changes, envfile.comments() | _COMMENTS)
    except OSError as exc:
        raise CommandError(f"cannot write {path}: {exc.strerror}") from None


def _migrate(found: Settings) -> None:
    try:
        engine = create_engine(found.storage)
        migrate.up(engine, found.storage.migration_lock_timeout_s)
        engine.dispose()
    except DatabaseFault as fault:
        raise CommandError(str(fault)) from fault


def _make_project(found: Settings, wanted: Wanted, path: Path) -> None:
    client = DirectClient(found)
    same = [p for p in client.call("GET", "/manage/projects") if p["name"] == wanted.project]
    if same:
        project = client.call("PATCH", f"/manage/projects/{same[0]['id']}", body={"api_key": wanted.openai_key})
        output.note(f"Project {wanted.project} exists; its provider key is the one given now")
        output.note(f"Its earlier tokens keep working: llm-proxy manage token list --project-id {wanted.project}")
    else:
        body = {"name": wanted.project, "api_key": wanted.openai_key}
        project = client.call("POST", "/manage/projects", body=body)
    asked = {"project_id": project["id"], "duration_minutes": wanted.hours * 60}
    token = client.call("POST", "/manage/tokens", body=asked)
    click.echo(
        output.lines(
            {"Project": project["id"], "Token": token["token"], "Expires at": output.minute(token["expires_at"])}
        )
    )
    url, options = place(found.server.listen_addr, is_tls=found.server.enable_tls)
    env = "" if path == Path(".env") else f" --env {path}"
    click.echo(
        f"\nStart the server:\n\n  llm-proxy server{env}\n\nIt serves {url}/v1. Then watch a completion stream:\n"
    )
    click.echo(first_request(url, token["token"], options))
