"""Which variables a command sees: the environment, the env file that was asked for, and the command's own flags."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from dotenv import dotenv_values

from llm_proxy.cli.errors import CommandError
from llm_proxy.settings import Loaded, Settings, load

ENV_FILE = "LLM_PROXY_ENV_FILE"
_NAMED = "llm_proxy.env_file"


def remember_env_file(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    """Callback of `--env`: the innermost one that is given counts."""
    if value is not None:
        ctx.meta[_NAMED] = value


def env_file() -> str | None:
    """What `--env` said; None when it was not given."""
    ctx = click.get_current_context(silent=True)
    return None if ctx is None else ctx.meta.get(_NAMED)


def environ() -> Mapping[str, str]:
    """The environment, without what `flask` has read into it from `.env`: the loader reads that file itself."""
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
    """The checked settings. Raises CommandError, a line for every fault."""
    return checked(load_settings(named_env_file, **flags))


def checked(loaded: Loaded) -> Settings:
    """The settings that were loaded. Raises CommandError, a line for every fault."""
    if loaded.faults:
        raise CommandError("\n".join(loaded.faults))
    return loaded.settings
