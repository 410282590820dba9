"""The kinds of command that the tree is made of.

Every command and group knows `-h`, `--help` and `--version`; every command knows `--env`. No option
reads an environment variable by itself: variables come through the settings.
"""

import sys
import traceback
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from llm_proxy import __version__
from llm_proxy.cli.environment import remember_env_file
from llm_proxy.cli.errors import EXIT_INTERRUPTED, CommandError
from llm_proxy.sanitize import wants_colour

CONTEXT_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 80, "auto_envvar_prefix": None}


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"llm-proxy {__version__}")
        ctx.exit()


def _version_option() -> click.Option:
    return click.Option(
        ["--version"],
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_print_version,
        help="Show the version.",
    )


def _env_option() -> click.Option:
    return click.Option(
        ["--env"],
        type=click.Path(),
        metavar="PATH",
        expose_value=False,
        is_eager=True,
        callback=remember_env_file,
        help="Env file to read beside the environment (.env).",
    )


class Command(click.Command):
    """A leaf of the tree.

    Args:
        examples: Command lines that the help and docs/commands.md show; a comment begins with `#`.
    """

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        kwargs["context_settings"] = CONTEXT_SETTINGS | kwargs.get("context_settings", {})
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)
        self.params += [_env_option(), _version_option()]

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"{' ' * formatter.current_indent}{example}\n")

    def invoke(self, ctx: click.Context) -> Any:
        """Run it; an unforeseen error is one line as well, and Ctrl-C has its own exit code."""
        if not wants_colour(sys.stdout):
            ctx.color = False
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(EXIT_INTERRUPTED)
        except (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
            raise
        except Exception as exc:
            raise CommandError(_where(exc)) from exc


def _where(exc: Exception) -> str:
    """Return what a bug report needs of an unforeseen error: kind and place, not its words, which may hold secrets."""
    frame = traceback.extract_tb(exc.__traceback__)[-1]
    return f"unexpected {type(exc).__name__} in {Path(frame.filename).name}, line {frame.lineno}; please report it"


def commands_in(module: str, **first_lines: str) -> dict[str, tuple[str, str]]:
    """Return commands of a module of this package for `Group(lazy=…)`: the first line of the help by attribute."""
    return {name.replace("_", "-"): (f"llm_proxy.cli.{module}:{name}", line) for name, line in first_lines.items()}


class Group(click.Group):
    """A branch; without arguments it shows its help and ends with 0.

    Args:
        lazy: Commands that are imported when they are run: name → (`module:attribute`, first line of the help).
        sections: Titles under which the help lists the commands; without them, one list in the alphabet's order.
        closing: Last lines of the help.
    """

    command_class = Command

    def __init__(
        self,
        *args: Any,
        lazy: Mapping[str, tuple[str, str]] | None = None,
        sections: Mapping[str, Sequence[str]] | None = None,
        closing: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        kwargs["context_settings"] = CONTEXT_SETTINGS | kwargs.get("context_settings", {})
        super().__init__(*args, **kwargs)
        self._lazy = lazy or {}
        self._sections, self._closing = sections, closing
        self.params.append(_version_option())

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """No arguments: the help, and success."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Click's, with a guess at what was meant that knows the commands which are not imported yet."""
        name = args[0]
        if not ctx.resilient_parsing and name[:1].isalpha() and self.get_command(ctx, name) is None:
            closest = get_close_matches(name, self.list_commands(ctx), n=1)
            ctx.fail(f"No such command {name!r}" + (f"; did you mean {closest[0]!r}?" if closest else ""))
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, imported or not."""
        return sorted({*super().list_commands(ctx), *self._lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command, imported now when it was not yet."""
        if cmd_name not in self._lazy:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self._lazy[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands, without importing them."""
        names = self.list_commands(ctx)
        for title, listed in (self._sections or {"Commands": names}).items():
            with formatter.section(title):
                formatter.write_dl([(name, self._first_line(ctx, name)) for name in listed])

    def _first_line(self, ctx: click.Context, name: str) -> str:
        command = None if name in self._lazy else super().get_command(ctx, name)
        return self._lazy[name][1] if command is None else command.get_short_help_str(70)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the closing lines."""
        if self._closing:
            formatter.write_paragraph()
            for line in self._closing:
                formatter.write(f"{line}\n")


Group.group_class = Group
