"""Which variables a command sees: the environment, the env file that was asked for, and the command's own flags."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from dotenv import dotenv_values

from llm_proxy.cli.errors import CommandError
from llm_proxy.settings import Loaded, Settings, load

ENV_FILE = "LLM_PROXY_ENV_FILE"
_NAMED = "llm_proxy.env_file"
_FLAGS = {  # of a variable that a flag may stand for: a fault of the flag is told under the flag's name
    "LISTEN_ADDR": "--addr",
    "DATABASE_PATH": "--db",
    "WEB_CONCURRENCY": "--workers",
    "LOG_LEVEL": "--log-level",
    "LOG_FILE": "--log-file",
    "FILE_EVENT_LOG": "--file-event-log",
    "API_CONFIG_PATH": "--config",
    "MANAGEMENT_API_BASE_URL": "--manage-api-base-url",
    "ADMIN_UI_LISTEN_ADDR": "--listen",
    "ADMIN_UI_API_BASE_URL": "--api-base-url",
    "DISPATCHER_SERVICE": "--service",
    "DISPATCHER_ENDPOINT": "--endpoint",
    "DISPATCHER_BUFFER": "--buffer",
    "DISPATCHER_BATCH_SIZE": "--batch-size",
    "DISPATCHER_FLUSH_INTERVAL": "--flush-interval",
    "DISPATCHER_RETRY_ATTEMPTS": "--retry-attempts",
    "DISPATCHER_RETRY_BACKOFF": "--retry-backoff",
    "DISPATCHER_TIMEOUT": "--timeout",
    "DISPATCHER_CONCURRENCY": "--concurrency",
    "DISPATCHER_HEALTH_ADDR": "--health-addr",
    "DISPATCHER_METHODS": "--methods",
    "DISPATCHER_MAX_DELIVERIES": "--max-deliveries",
    "DISPATCHER_DEAD_LETTER_MAX_LEN": "--dead-letter-max-len",
    "PROXY_URL": "--proxy",
}


def remember_env_file(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    """Remember the innermost `--env` that is given; its callback."""
    if value is not None:
        ctx.meta[_NAMED] = value


def env_file() -> str | None:
    """Return what `--env` said; None when it was not given."""
    ctx = click.get_current_context(silent=True)
    return None if ctx is None else ctx.meta.get(_NAMED)


def is_run_by_flask() -> bool:
    """Return whether the running command came through `flask`; Flask is not imported to find out."""
    ctx, flask_cli = click.get_current_context(silent=True), sys.modules.get("flask.cli")
    return ctx is not None and flask_cli is not None and ctx.find_object(flask_cli.ScriptInfo) is not None


def environ() -> Mapping[str, str]:
    """Return the environment, without what `flask` has read into it from `.env`: the loader reads that file itself."""
    if "FLASK_RUN_FROM_CLI" not in os.environ or not Path(".env").is_file():
        return os.environ
    loaded = dotenv_values(".env")
    return {name: value for name, value in os.environ.items() if loaded.get(name) != value}


def load_settings(named_env_file: str | None = None, **flags: Any) -> Loaded:
    """Read the settings.

    Args:
        named_env_file: Env file in place of the one that `--env` named.
        flags: Variables by name, None for a flag that was not given.
    """
    overrides = {name: str(value) for name, value in flags.items() if value is not None}
    return load(environ(), named_env_file or env_file(), overrides=overrides)


def settings(named_env_file: str | None = None, **flags: Any) -> Settings:
    """Return the checked settings. Raises CommandError, a line for every fault."""
    return checked(load_settings(named_env_file, **flags))


def checked(loaded: Loaded) -> Settings:
    """Return the settings that were loaded. Raises CommandError, a line for every fault."""
    if loaded.faults:
        raise CommandError("\n".join(as_flag(fault, loaded) for fault in loaded.faults))
    return loaded.settings


def as_flag(fault: str, loaded: Loaded) -> str:
    """Return a fault under the name of the flag where a flag has set the variable."""
    name, equals, rest = fault.partition("=")
    is_flag = equals and loaded.sources.get(name) == "flag" and name in _FLAGS
    return f"{_FLAGS[name]} {rest}" if is_flag else fault
