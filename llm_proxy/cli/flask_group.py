"""`flask --app wsgi …`: the same commands, as a group that Flask finds."""

from collections.abc import Mapping
from typing import Any

import click
from flask.cli import AppGroup

from llm_proxy.cli.base import Group


class FlaskGroup(AppGroup):
    """Flask asks an application's group for its commands; this one imports the proxy's when they are asked for."""

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._commands = Group("llm-proxy", lazy=lazy)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the proxy's commands, and what extensions registered."""
        return sorted({*super().list_commands(ctx), *self._commands.list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the proxy's command first."""
        return self._commands.get_command(ctx, cmd_name) or super().get_command(ctx, cmd_name)
