"""What bin/up does once everything is installed: one command from a checkout to a completion that streams.

Keeps `.env` and two projects, migrates, starts the server (and, without a provider key, the simulated provider), prints
what a first request needs, and stops all of it on Ctrl-C.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from llm_proxy.cli import envfile, output
from llm_proxy.cli.environment import load_settings
from llm_proxy.cli.errors import CommandError
from llm_proxy.cli.first_steps import first_request, missing_secrets
from llm_proxy.cli.ports import place, require_free
from llm_proxy.cli.processes import Children, wait_until_ready
from llm_proxy.cli.serve import gunicorn_command
from llm_proxy.preflight import StartRefused, prepare, refusal
from llm_proxy.providers import load_provider
from llm_proxy.settings import Loaded, Settings

if TYPE_CHECKING:
    from llm_proxy.cli.direct import DirectClient

_ENV_FILE = Path(".env")
_STATE_FILE = Path("data/up.json")  # the last run's token, for its owner alone, as .env holds the management token
_ADDRESS = "127.0.0.1:8080"
_TOKEN_MINUTES = 12 * 60
_KEPT_FOR = timedelta(hours=1)  # a token that lives for less is replaced
_DEFAULT_KIND = "openai"
_SIMULATED_KEY = "sk-simulated-provider"
_NO_KEY = "sk-no-key-yet"  # of the project `default` until there is OPENAI_API_KEY; the project is inactive


@dataclass(frozen=True, slots=True)
class _Token:
    """The token of this run; `remark` is what the greeting says about its life."""

    bearer: str
    remark: str


class _Stopped(BaseException):
    """Ctrl-C or SIGTERM."""


def main(words: Sequence[str] | None = None) -> NoReturn:
    """Run; ends with 0 when it was asked to stop, 1 with one line on stderr when it cannot go on."""
    parser = argparse.ArgumentParser(prog="bin/up")
    parser.add_argument("--provider", action="append", default=[], type=_kind, help="simulate this one beside")
    beside = list(dict.fromkeys(parser.parse_args(words).provider))
    gc.disable()  # this process makes hardly any garbage, and what it imports is worth no look
    children = Children()
    code = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _stop)
        _run(children, beside)
    except _Stopped:
        code = 0
    except CommandError as error:
        error.show()
    except StartRefused as refusal:
        output.show_error(str(refusal))
        if "sealed under" in str(refusal):
            output.note("Hint: put that key back into .env, or delete data/ to begin again without projects and tokens")
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, children.hurry)
        children.stop()
    sys.exit(code)


def _kind(name: str) -> str:
    """Check the name of a provider that can be simulated beside the default one."""
    from llm_proxy_simulator.kinds import KINDS

    kinds = [kind for kind in KINDS if kind != _DEFAULT_KIND]
    if name not in kinds:
        raise argparse.ArgumentTypeError(f"invalid choice: {name!r} (choose from {', '.join(map(repr, kinds))})")
    return name


def _stop(number: int, frame: FrameType | None) -> None:
    raise _Stopped(number)


def _run(children: Children, beside: Sequence[str]) -> NoReturn:
    _make_env_file()
    loaded = _load()
    settings = loaded.settings
    require_free(settings.server.listen_addr)
    is_simulated = not settings.commands.openai_api_key
    variables = dict(os.environ) | {"LISTEN_ADDR": str(settings.server.listen_addr)}
    if "LOG_FORMAT" not in loaded.sources:
        variables["LOG_FORMAT"] = "text"
    if is_simulated:
        children.start("simulated provider", [sys.executable, "-m", "llm_proxy.cli", "simulate-provider"], os.environ)
    prepare(settings)
    if is_simulated:
        if "OPENAI_API_URL" in loaded.sources:
            output.note("Note: OPENAI_API_URL is not used in this run, because there is no OPENAI_API_KEY")
        variables |= _to_loopback(children.first_line("simulated provider"))
    if beside:
        settings = _with_simulated(children, settings, beside)
        variables["PROVIDERS"] = ",".join(settings.upstream.providers)
        variables["PROVIDER_URLS"] = ",".join(f"{name}={url}" for name, url in settings.upstream.provider_urls)
        variables |= {name: _spared() for name in ("NO_PROXY", "no_proxy")}
    children.start("server", gunicorn_command(), variables)
    token = _ready_token(settings, is_simulated, beside)
    wait_until_ready(children, settings.server)
    click.echo(_greeting(settings, token, is_simulated, beside))
    sys.stdout.flush()
    children.wait()


def _to_loopback(url: str) -> dict[str, str]:
    """Variables that lead to a provider on this machine, past an HTTP proxy that is set for the real one."""
    return {"OPENAI_API_URL": url, "NO_PROXY": _spared(), "no_proxy": _spared()}


def _spared() -> str:
    """Hosts that no HTTP proxy stands before, this machine among them."""
    spared = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    return f"{spared},127.0.0.1".lstrip(",")


def _with_simulated(children: Children, settings: Settings, names: Sequence[str]) -> Settings:
    """Start simulated providers of these kinds; return the settings with them beside the default one."""
    urls = dict(settings.upstream.provider_urls or ())
    for name in names:
        title = f"simulated {name}"
        command = [sys.executable, "-m", "llm_proxy.cli", "simulate-provider", "--kind", name]
        children.start(title, command, os.environ)
        urls[name] = children.first_line(title)
    alone = replace(settings, upstream=replace(settings.upstream, providers=(), provider_urls=()))
    default = load_provider(alone).provider.name
    served = tuple(dict.fromkeys((default, *(settings.upstream.providers or ()), *names)))
    upstream = replace(settings.upstream, providers=served, provider_urls=tuple(urls.items()))
    return replace(settings, upstream=upstream)


def _make_env_file() -> None:
    """Add random secrets to `.env` where it, the environment and secret files lack them; the rest stays as it is."""
    loaded = load_settings()
    missing = missing_secrets(loaded)
    is_faulty = any(not fault.startswith("ENCRYPTION_KEY is not set") for fault in loaded.faults)
    if not missing or is_faulty:
        return
    is_new = not _ENV_FILE.exists()
    try:
        envfile.edit(_ENV_FILE, {name: envfile.SECRETS[name].make() for name in missing}, envfile.comments())
    except OSError as exc:
        raise CommandError(f"cannot write {_ENV_FILE}: {exc.strerror}") from None
    if not is_new:
        output.note(f"Note: {' and '.join(missing)} added to {_ENV_FILE}")


def _load() -> Loaded:
    """Return the settings, on loopback unless an address is set. Raises CommandError naming every fault."""
    loaded = load_settings()
    if "LISTEN_ADDR" not in loaded.sources:
        loaded = load_settings(LISTEN_ADDR=_ADDRESS)
    faults = refusal(loaded)
    if faults:
        raise CommandError("\n".join(faults))
    return loaded


def _ready_token(settings: Settings, is_simulated: bool, beside: Sequence[str]) -> _Token:
    """Keep both projects, with a key for each simulated provider.

    Return the last run's token while it works for this project, else a new one.
    """
    from llm_proxy.cli.direct import DirectClient  # the whole application, imported while the server starts

    with DirectClient(settings) as client:
        projects = {project["name"]: project for project in client.call("GET", "/manage/projects")}
        _keep_default(client, projects.get("default"), settings.commands.openai_api_key)
        if "simulated" not in projects:
            body = {"name": "simulated", "api_key": _SIMULATED_KEY}
            projects["simulated"] = client.call("POST", "/manage/projects", body=body)
        projects = {project["name"]: project for project in client.call("GET", "/manage/projects")}
        project = projects["simulated" if is_simulated else "default"]
        if not project["is_active"]:
            raise CommandError(
                f"project {project['name']} is deactivated: llm-proxy manage project activate {project['id']}"
            )
        for name in beside:
            path = f"/manage/projects/{project['id']}/provider-keys/{name}"
            client.call("PUT", path, body={"api_key": _SIMULATED_KEY})
        return _kept_token(client, project["id"]) or _new_token(client, project["id"])


def _kept_token(client: DirectClient, project_id: str) -> _Token | None:
    """Return the last run's token, when it is this project's and lives for another hour; None revokes it."""
    state = _state()
    if state is None:
        return None
    try:
        about = client.call("GET", f"/manage/tokens/{state['token_id']}")
    except CommandError as refusal:
        if refusal.status == 404:  # another database than the last run's
            return None
        raise
    ends_at = datetime.fromisoformat(about["expires_at"]) if about["expires_at"] else None
    lives_on = ends_at is None or ends_at - datetime.now(UTC) > _KEPT_FOR
    if about["status"] == "active" and about["project_id"] == project_id and lives_on and state.get("token"):
        until = "until it is revoked" if ends_at is None else f"until {ends_at:%Y-%m-%d %H:%M}Z"
        return _Token(state["token"], f"the last run's, {until}")
    if about["status"] == "active":
        client.call("DELETE", f"/manage/tokens/{state['token_id']}")
    return None


def _new_token(client: DirectClient, project_id: str) -> _Token:
    asked = {"project_id": project_id, "duration_minutes": _TOKEN_MINUTES}
    issued = client.call("POST", "/manage/tokens", body=asked)
    _STATE_FILE.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    envfile.write(_STATE_FILE, json.dumps({"token_id": issued["id"], "token": issued["token"]}))
    return _Token(issued["token"], "for 12 hours")


def _state() -> dict[str, str] | None:
    """Return what the last run wrote; None when there was none, or nothing that can be used."""
    try:
        state = json.loads(_STATE_FILE.read_text())
        return {name: str(value) for name, value in state.items()} if state["token_id"] else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _keep_default(client: DirectClient, project: Mapping[str, Any] | None, key: str | None) -> None:
    """Keep the project of the real provider: its key follows OPENAI_API_KEY; inactive until there is one."""
    if project is None:
        project = client.call("POST", "/manage/projects", body={"name": "default", "api_key": key or _NO_KEY})
        if key is None:
            client.call("PATCH", f"/manage/projects/{project['id']}", body={"is_active": False})
        return
    if key is None:
        return
    before = _stored_key(client, project["id"])
    if before != key:
        body = {"api_key": key, **({"is_active": True} if before == _NO_KEY else {})}
        client.call("PATCH", f"/manage/projects/{project['id']}", body=body)


def _stored_key(client: DirectClient, project_id: str) -> str | None:
    """Return the project's key in clear; None when it does not open."""
    from sqlalchemy import select

    from llm_proxy.crypto import UnopenableValue
    from llm_proxy.db.models import ProjectRow
    from llm_proxy.db.session import read_transaction

    services = client.services
    with read_transaction(services.engine) as connection:
        sealed = connection.execute(select(ProjectRow.api_key).where(ProjectRow.id == project_id)).scalar_one()
    try:
        opened: str = services.ring.open(sealed, project_id)
    except UnopenableValue:
        return None
    return opened


def _admin_ui(settings: Settings, url: str) -> str:
    """Return the lines on the admin UI; a terminal shows the token to sign in with, a file or pipe where it is."""
    if not settings.operation.admin_ui_enabled:
        return ""
    sign_in = "with MANAGEMENT_TOKEN of .env"
    if sys.stdout.isatty():
        sign_in = f"with {settings.operation.management_token} (MANAGEMENT_TOKEN of .env)"
    return f"Admin UI: {url}{settings.operation.admin_ui_path}\nSign in:  {sign_in}\n"


def _greeting(settings: Settings, token: _Token, is_simulated: bool, beside: Sequence[str]) -> str:
    url, options = place(settings.server.listen_addr, is_tls=settings.server.enable_tls)
    upstream = (
        "the simulated provider (set OPENAI_API_KEY for the real one)"
        if is_simulated
        else f"{settings.upstream.openai_api_url or 'https://api.openai.com'}, key from OPENAI_API_KEY"
    )
    where = f" --manage-api-base-url {url}" if "LISTEN_ADDR" in os.environ else ""  # else `manage` reads it in .env
    upstream += "".join(f"\n          {url}/{name}: a simulated provider" for name in beside)
    return f"""
Serving:  {url}
Upstream: {upstream}
Token:    {token.bearer} ({token.remark})
{_admin_ui(settings, url)}
Watch a completion stream:

{first_request(url, token.bearer, options)}

Next:

  chat             .venv/bin/llm-proxy openai chat --base-url {url} --token {token.bearer}
  OpenAI clients   base_url="{url}/v1", api_key="{token.bearer}"
  your own token   .venv/bin/llm-proxy manage project create --name my-team{where}
                   .venv/bin/llm-proxy manage token generate --project-id my-team --duration 24h{where}
  metrics          {url}{settings.operation.metrics_path}
  documentation    docs/, README.md

The management token is in .env. Ctrl-C stops everything.
"""


if __name__ == "__main__":
    main()
