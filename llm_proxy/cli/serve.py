"""`llm-proxy server`: gunicorn with the shipped configuration."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from llm_proxy.cli import daemon
from llm_proxy.cli.base import Command
from llm_proxy.cli.environment import ENV_FILE, checked, env_file, environ, load_settings
from llm_proxy.cli.errors import CommandError
from llm_proxy.cli.options import plain_option
from llm_proxy.cli.ports import require_free

_LEVELS = ("debug", "info", "warn", "error")


@click.command(
    "server",
    cls=Command,
    examples=("llm-proxy server --addr 127.0.0.1:8080", "llm-proxy server -d --log-file server.log --workers 4"),
)
@click.option("--addr", metavar="ADDRESS", help="Address to listen on (LISTEN_ADDR).")
@click.option("--db", type=click.Path(), metavar="PATH", help="The SQLite file (DATABASE_PATH).")
@plain_option("--workers", type=click.IntRange(1, 64), metavar="N", help="Worker processes (WEB_CONCURRENCY).")
@click.option(
    "--config", "-c", "config", type=click.Path(), metavar="PATH", help="Provider file (.yaml, .yml), else an env file."
)
@click.option("--log-level", type=click.Choice(_LEVELS, case_sensitive=False), help="Least level (LOG_LEVEL).")
@click.option("--log-file", type=click.Path(), metavar="PATH", help="File for log lines (LOG_FILE).")
@click.option("--debug", "-v", is_flag=True, help="Same as --log-level debug.")
@click.option("--file-event-log", type=click.Path(), metavar="PATH", help="File for events (FILE_EVENT_LOG).")
@click.option("--daemon", "-d", "is_daemon", is_flag=True, help="Run in the background; prints the pid.")
@click.option("--pid-file", type=click.Path(), metavar="PATH", help="Where the pid is kept (with -d: tmp/server.pid).")
def server(
    addr: str | None,
    db: str | None,
    workers: int | None,
    config: str | None,
    log_level: str | None,
    log_file: str | None,
    debug: bool,
    file_event_log: str | None,
    is_daemon: bool,
    pid_file: str | None,
) -> None:
    """Serve the proxy with gunicorn and gevent.

    Everything comes from the environment and .env; flags win over both. SIGTERM drains, SIGHUP reloads provider file,
    .env and workers.
    """
    flags = {
        "LISTEN_ADDR": addr,
        "DATABASE_PATH": db,
        "WEB_CONCURRENCY": workers,
        "LOG_LEVEL": "debug" if debug else log_level,
        "LOG_FILE": log_file,
        "FILE_EVENT_LOG": file_event_log,
    }
    named_env_file = env_file()
    if config is not None:
        if config.endswith((".yaml", ".yml")):
            flags["API_CONFIG_PATH"] = config
        else:
            named_env_file = config
    loaded = load_settings(named_env_file, **flags)
    found = checked(loaded)
    if "LOG_FORMAT" not in loaded.sources and found.operation.log_file is None and sys.stdout.isatty():
        flags["LOG_FORMAT"] = "text"
    if is_daemon and not found.operation.log_file:
        raise CommandError("--log-file must be specified when running in daemon mode (-d)")
    pid_path = Path(pid_file or "tmp/server.pid") if pid_file or is_daemon else None
    if pid_path is not None:
        daemon.claim(pid_path)
    require_free(found.server.listen_addr)
    command = gunicorn_command(pid_path)
    variables = _variables(flags, named_env_file)
    if is_daemon:
        log_path = Path(found.operation.log_file or os.devnull)
        click.echo(daemon.start(command, variables, log_path, found.server.listen_addr, is_tls=found.server.enable_tls))
        return
    sys.stdout.flush()
    os.execve(command[0], command, variables)  # noqa: S606  (this interpreter, no shell)


def gunicorn_command(pid_path: Path | None = None) -> list[str]:
    """Return the command that serves: gunicorn with the shipped configuration, in this interpreter."""
    pid = [] if pid_path is None else ["--pid", str(pid_path)]
    return [sys.executable, "-m", "gunicorn", "-c", "python:llm_proxy.gunicorn_conf", *pid]


def _variables(flags: Mapping[str, object], named_env_file: str | None) -> dict[str, str]:
    """Return the environment of the server: flags travel as the variables that they stand for."""
    variables = {name: value for name, value in environ().items() if name != "FLASK_RUN_FROM_CLI"}
    variables |= {name: str(value) for name, value in flags.items() if value is not None}
    if named_env_file is not None:
        variables[ENV_FILE] = named_env_file
    return variables
