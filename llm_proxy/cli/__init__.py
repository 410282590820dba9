"""The command line: the same commands as `llm-proxy …` and as `flask --app wsgi …`.

Commands are imported when they run, so that listing them opens, reads and starts nothing.
"""

import os
import sys
from typing import TYPE_CHECKING

import click

from llm_proxy.cli.base import Group, commands_in
from llm_proxy.cli.errors import EXIT_GENERAL, EXIT_INTERRUPTED, usage_fault
from llm_proxy.cli.output import form_in, output_format, show_error

if TYPE_CHECKING:
    from flask import Flask

COMMANDS = {
    **commands_in("admin", admin="Serve the admin UI in its own process."),
    **commands_in("audit", audit="The audit trail."),
    **commands_in("benchmark", benchmark="Measure requests through a proxy."),
    **commands_in("completion", completion="Print a shell's completion script."),
    **commands_in("config", config="Check and show the settings."),
    **commands_in("dispatcher", dispatcher="Carry events from the bus to a service."),
    **commands_in("events", events="Watch and replay events."),
    **commands_in(
        "database", db="Copy, count and tidy the database.", migrate="Bring the database's schema up or down."
    ),
    **commands_in("doctor", doctor="Look for faults, and say what to do about each."),
    **commands_in("manage", manage="Projects, tokens, keys and the cache."),
    **commands_in("chat", openai="Talk to a model through the proxy."),
    **commands_in("serve", server="Serve the proxy."),
    **commands_in("setup", setup="Write an env file, and make a first project."),
    **commands_in("usage", usage="What was used, and whether the numbers agree."),
    **commands_in("keys", whoami="Show the caller of the credential."),
    **commands_in("simulate", simulate_provider="Serve a simulated provider."),
}

SECTIONS = {
    "Start here": ("setup", "server", "doctor"),
    "Projects and tokens": ("manage", "whoami", "usage", "openai"),
    "Operation": ("audit", "config", "db", "migrate", "events", "dispatcher", "admin"),
    "Development": ("benchmark", "simulate-provider", "completion"),
}
_CLOSING = (
    "Each command: llm-proxy COMMAND --help",
    "Learn more:   docs/ of the project; docs/commands.md has every option",
)

root = Group(
    "llm-proxy",
    lazy=COMMANDS,
    sections=SECTIONS,
    closing=_CLOSING,
    help="A gateway to OpenAI-style APIs that hands out withering tokens instead of provider keys.",
)


def main() -> None:
    """Entry point of the console script: every error is a line on stderr and an exit code."""
    try:
        code = root.main(prog_name="llm-proxy", standalone_mode=False)
    except click.exceptions.Exit as exc:
        code = exc.exit_code
    except click.UsageError as exc:
        show_error(usage_fault(exc), form=form_in(sys.argv[1:]) or output_format(exc.ctx))
        code = EXIT_GENERAL
    except click.ClickException as exc:
        exc.show()
        code = exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (the reader has left; nothing is owed to it)
        code = 0
    sys.exit(code if isinstance(code, int) else 0)


def register(app: "Flask") -> None:
    """Make the commands available as `flask --app wsgi <command>`."""
    from llm_proxy.cli.flask_group import FlaskGroup

    app.cli = FlaskGroup(app.name, lazy=COMMANDS)
