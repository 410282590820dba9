"""Which variables a command sees: the environment, the env file that was asked for, and the command's own flags."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from llm_proxy.settings import Loaded, Settings

_ENV_FILE = "llm_proxy.env_file"


def remember_env_file(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    """Callback of `--env`: the innermost one that is given counts."""
    if value is not None:
        ctx.meta[_ENV_FILE] = value


def env_file() -> str | None:
    """What `--env` said; None when it was not given."""
    ctx = click.get_current_context(silent=True)
    return None if ctx is None else ctx.meta.get(_ENV_FILE)


def environ() -> Mapping[str, str]:
    """The environment. `flask` has read `.env` into it by itself: taken out again where `--env` names another file."""
    if env_file() is None or "FLASK_RUN_FROM_CLI" not in os.environ or not Path(".env").is_file():
        return os.environ
    from dotenv import dotenv_values

    loaded = dotenv_values(".env")
    return {name: value for name, value in os.environ.items() if loaded.get(name) != value}


def load_settings(**flags: Any) -> "Loaded":
    """Read the settings; `flags` are variables by name, None for a flag that was not given."""
    from llm_proxy.settings import load

    overrides = {name: str(value) for name, value in flags.items() if value is not None}
    return load(environ(), env_file(), overrides=overrides)


def settings(**flags: Any) -> "Settings":
    """The checked settings. Raises CommandError naming every fault at once."""
    from llm_proxy.cli.tree import CommandError

    loaded = load_settings(**flags)
    if loaded.faults:
        raise CommandError("\n".join(loaded.faults))
    return loaded.settings
