"""The command line: the same commands as `llm-proxy …` and as `flask --app wsgi …`.

Commands are imported when they run, so that listing them opens, reads and starts nothing.
"""

import os
import sys
from typing import TYPE_CHECKING

import click

from llm_proxy.cli.base import Group
from llm_proxy.cli.errors import EXIT_GENERAL, EXIT_INTERRUPTED
from llm_proxy.cli.output import form_in, output_format, show_error

if TYPE_CHECKING:
    from flask import Flask

COMMANDS = {
    "admin": ("llm_proxy.cli.admin:admin", "Serve the admin UI in its own process."),
    "audit": ("llm_proxy.cli.audit:audit", "The audit trail."),
    "benchmark": ("llm_proxy.cli.benchmark:benchmark", "Measure requests through a proxy."),
    "completion": ("llm_proxy.cli.completion:completion", "Print a shell's completion script."),
    "config": ("llm_proxy.cli.config:config", "Check and show the settings."),
    "dispatcher": ("llm_proxy.cli.dispatcher:dispatcher", "Carry events from the bus to a service."),
    "events": ("llm_proxy.cli.events:events", "Watch and replay events."),
    "db": ("llm_proxy.cli.database:db", "Copy, count and tidy the database."),
    "doctor": ("llm_proxy.cli.doctor:doctor", "Look for faults, and say what to do about each."),
    "manage": ("llm_proxy.cli.manage:manage", "Projects, tokens, keys and the cache."),
    "migrate": ("llm_proxy.cli.database:migrate", "Bring the database's schema up or down."),
    "openai": ("llm_proxy.cli.chat:openai", "Talk to a model through the proxy."),
    "server": ("llm_proxy.cli.serve:server", "Serve the proxy."),
    "setup": ("llm_proxy.cli.setup:setup", "Write an env file, and make a first project."),
    "usage": ("llm_proxy.cli.usage:usage", "What was used, and whether the numbers agree."),
    "whoami": ("llm_proxy.cli.keys:whoami", "Show the caller of the credential."),
    "simulate-provider": ("llm_proxy.cli.simulate:simulate_provider", "Serve a simulated provider."),
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
        said = " ".join(exc.format_message().split()).rstrip(".")
        joint = " See" if said.endswith("?") else "; see"
        asked = f"{joint} {exc.ctx.command_path} --help" if exc.ctx is not None else ""
        show_error(said + asked, form=form_in(sys.argv[1:]) or output_format(exc.ctx))
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
