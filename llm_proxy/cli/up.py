"""What bin/up does once everything is installed: one command from a checkout to a completion that streams.

Keeps `.env` and two projects, migrates, starts the server (and, without a provider key, the simulated provider), prints
what a first request needs, and stops all of it on Ctrl-C.
"""

import json
import os
import secrets
import signal
import sys
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click
from sqlalchemy import select

from llm_proxy.cli import envfile, output
from llm_proxy.cli.direct import DirectClient
from llm_proxy.cli.environment import load_settings
from llm_proxy.cli.errors import CommandError
from llm_proxy.cli.listening import require_free
from llm_proxy.cli.processes import Children, wait_until_ready
from llm_proxy.cli.serve import gunicorn_command
from llm_proxy.crypto import UnopenableValue
from llm_proxy.db.models import ProjectRow
from llm_proxy.db.session import reading
from llm_proxy.preflight import StartRefused, check, prepare
from llm_proxy.settings import Loaded, Settings
from llm_proxy.settings.declare import ListenAddress

_ENV_FILE = Path(".env")
_STATE_FILE = Path("data/up.json")  # which token the last run issued; its id, not its value
_ADDRESS = "127.0.0.1:8080"
_TOKEN_MINUTES = 12 * 60
_SIMULATED_KEY = "sk-simulated-provider"
_NO_KEY = "sk-no-key-yet"  # of the project `default` until there is OPENAI_API_KEY; the project is inactive
_MODEL = "gpt-4o-mini"


class _Stopped(BaseException):
    """Ctrl-C or SIGTERM."""


def main() -> NoReturn:
    """Run; ends with 0 when it was asked to stop, 1 with one line on stderr when it cannot go on."""
    children = Children()
    code = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _stop)
        _run(children)
    except _Stopped:
        code = 0
    except CommandError as error:
        error.show()
    except StartRefused as refusal:
        output.show_error(str(refusal))
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, children.hurry)
        children.stop()
    sys.exit(code)


def _stop(number: int, frame: FrameType | None) -> None:
    raise _Stopped(number)


def _run(children: Children) -> NoReturn:
    _make_env_file()
    loaded = _load()
    settings = loaded.settings
    require_free(settings.listen_addr)
    is_simulated = not settings.openai_api_key
    variables = dict(os.environ) | {"LISTEN_ADDR": str(settings.listen_addr)}
    if "LOG_FORMAT" not in loaded.sources:
        variables["LOG_FORMAT"] = "text"
    if is_simulated:
        children.start("simulated provider", [sys.executable, "-m", "llm_proxy.cli", "simulate-provider"], os.environ)
    prepare(settings)
    if is_simulated:
        if "OPENAI_API_URL" in loaded.sources:
            output.note("Note: OPENAI_API_URL is not used in this run, because there is no OPENAI_API_KEY")
        variables |= _to_loopback(children.first_line("simulated provider"))
    children.start("server", gunicorn_command(), variables)
    token = _issue_token(settings, is_simulated)
    wait_until_ready(children, settings)
    click.echo(_greeting(settings, token, is_simulated))
    sys.stdout.flush()
    children.wait()


def _to_loopback(url: str) -> dict[str, str]:
    """Variables that lead to a provider on this machine, past an HTTP proxy that is set for the real one."""
    spared = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    spared = f"{spared},127.0.0.1".lstrip(",")
    return {"OPENAI_API_URL": url, "NO_PROXY": spared, "no_proxy": spared}


def _make_env_file() -> None:
    """Random secrets, when there is no `.env`; an existing one is left alone."""
    if _ENV_FILE.exists():
        return
    made = {
        "MANAGEMENT_TOKEN": secrets.token_urlsafe(32),
        "ENCRYPTION_KEY": b64encode(secrets.token_bytes(32)).decode(),
    }
    comments = {
        "MANAGEMENT_TOKEN": "Bearer of the management API under /manage.",
        "ENCRYPTION_KEY": "Seals provider keys in the database. Lost key, lost provider keys: keep a copy.",
    }
    envfile.edit(_ENV_FILE, made, comments)


def _load() -> Loaded:
    """The settings, on loopback unless somebody said otherwise. Raises CommandError naming every fault."""
    loaded = load_settings()
    if "LISTEN_ADDR" not in loaded.sources:
        loaded = load_settings(LISTEN_ADDR=_ADDRESS)
    faults = check(loaded)
    if faults:
        raise CommandError("\n".join(faults))
    return loaded


def _issue_token(settings: Settings, is_simulated: bool) -> str:
    """Keep both projects, revoke the last run's token, issue this run's; returns its bearer."""
    with DirectClient(settings) as client:
        projects = {project["name"]: project for project in client.call("GET", "/manage/projects")}
        _keep_default(client, projects.get("default"), settings.openai_api_key)
        if "simulated" not in projects:
            body = {"name": "simulated", "api_key": _SIMULATED_KEY}
            projects["simulated"] = client.call("POST", "/manage/projects", body=body)
        _revoke_last(client)
        projects = {project["name"]: project for project in client.call("GET", "/manage/projects")}
        project = projects["simulated" if is_simulated else "default"]
        if not project["is_active"]:
            raise CommandError(
                f"project {project['name']} is deactivated: llm-proxy manage project activate {project['id']}"
            )
        asked = {"project_id": project["id"], "duration_minutes": _TOKEN_MINUTES}
        issued = client.call("POST", "/manage/tokens", body=asked)
    _STATE_FILE.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _STATE_FILE.write_text(json.dumps({"token_id": issued["id"]}))
    bearer: str = issued["token"]
    return bearer


def _keep_default(client: DirectClient, project: Mapping[str, Any] | None, key: str | None) -> None:
    """The project of the real provider: its key follows OPENAI_API_KEY; inactive as long as there never was one."""
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
    """The project's key in clear; None when it does not open."""
    services = client.services
    with reading(services.engine) as connection:
        sealed = connection.execute(select(ProjectRow.api_key).where(ProjectRow.id == project_id)).scalar_one()
    try:
        opened: str = services.ring.open(sealed, project_id)
    except UnopenableValue:
        return None
    return opened


def _revoke_last(client: DirectClient) -> None:
    try:
        token_id = str(json.loads(_STATE_FILE.read_text())["token_id"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    try:
        client.call("DELETE", f"/manage/tokens/{token_id}")
    except CommandError as refusal:
        if refusal.status != 404:  # another database than the last run's
            raise


def _greeting(settings: Settings, token: str, is_simulated: bool) -> str:
    url, options = _place(settings.listen_addr, is_tls=settings.enable_tls)
    upstream = (
        "the simulated provider (set OPENAI_API_KEY for the real one)"
        if is_simulated
        else f"{settings.openai_api_url or 'https://api.openai.com'}, key from OPENAI_API_KEY"
    )
    asked = {"model": _MODEL, "stream": True, "messages": [{"role": "user", "content": "Say hello."}]}
    command = (
        f"curl -N {options}{url}/v1/chat/completions -H 'Authorization: Bearer {token}' "
        f"-H 'Content-Type: application/json' -d '{json.dumps(asked)}'"
    )
    return f"""
Serving:  {url}
Upstream: {upstream}
Token:    {token} (for 12 hours; the last run's is revoked)

Watch a completion stream:

{command}

The management token is in .env. Ctrl-C stops everything.
"""


def _place(address: ListenAddress, *, is_tls: bool) -> tuple[str, str]:
    """URL for this machine, and what curl needs to reach it."""
    scheme, options = ("https", "-k ") if is_tls else ("http", "")
    if address.path is not None:
        return f"{scheme}://localhost", f"{options}--unix-socket {address.path} "
    host = address.host if address.host not in ("", "0.0.0.0", "::") else "127.0.0.1"  # noqa: S104  (compared)
    return f"{scheme}://{ListenAddress(host, address.port)}", options


if __name__ == "__main__":
    main()
