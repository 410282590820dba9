"""How a command ends without success: a line on stderr, and an exit code."""

import re
from typing import Any

import click

from llm_proxy.cli.output import output_format, show_error

EXIT_GENERAL, EXIT_NETWORK, EXIT_AUTHENTICATION, EXIT_INTERRUPTED = 1, 2, 3, 130


class CommandError(click.ClickException):
    """A command ends without success: one line on stderr and exit code 1.

    Args:
        message: The line, without a prefix; several faults are a line each. Never a secret.
        status: The HTTP status behind it, for `--json`.
    """

    exit_code = EXIT_GENERAL

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self._format = output_format()  # the command's context is gone when the error is shown

    def show(self, file: Any = None) -> None:
        """Print it the way the command's output was asked for."""
        show_error(self.message, self.status, self._format)


class NetworkError(CommandError):
    """Refused, unknown host, TLS, timeout."""

    exit_code = EXIT_NETWORK


class AuthenticationError(CommandError):
    """A token is missing or was not accepted."""

    exit_code = EXIT_AUTHENTICATION


def usage_fault(exc: click.UsageError) -> str:
    """Return Click's words on a wrong command line as one plain line that ends with the help to see."""
    said = " ".join(exc.format_message().split()).rstrip(".")
    said = re.sub(r"is not a valid integer( range)?", "is not a whole number", said)
    said = re.sub(r"\. \(Did you mean (.*)\?\)$", r"; did you mean \1?", said)
    if exc.ctx is None:
        return said
    return f"{said}{' See' if said.endswith('?') else '; see'} {exc.ctx.command_path} --help"
