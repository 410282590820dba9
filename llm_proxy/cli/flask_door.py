"""The door `flask --app wsgi …`: the same commands, found by Flask's own group."""

from collections.abc import Mapping
from typing import Any

import click
from flask.cli import AppGroup

from llm_proxy.cli.tree import Group


class Door(AppGroup):
    """Flask asks an application's group for its commands; this one imports ours when they are asked for."""

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._commands = Group("llm-proxy", lazy=lazy)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Ours, and what extensions registered."""
        return sorted({*super().list_commands(ctx), *self._commands.list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Ours first."""
        return self._commands.get_command(ctx, cmd_name) or super().get_command(ctx, cmd_name)
