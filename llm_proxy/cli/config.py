"""`llm-proxy config …`: the settings checked, shown, and a key for them."""

import base64
import secrets

import click

from llm_proxy.cli import output
from llm_proxy.cli.base import Group
from llm_proxy.cli.environment import load_settings
from llm_proxy.cli.errors import CommandError
from llm_proxy.settings import variables
from llm_proxy.settings.formatting import shown


@click.group("config", cls=Group)
def config() -> None:
    """Check and show the settings."""


@config.command()
@output.output_options
def check() -> None:
    """List every fault in variables, env file and provider file.

    Exits with 1 if there is one. Warnings are listed as well and are no fault.
    """
    from llm_proxy.preflight import check as check_start
    from llm_proxy.preflight import notes

    loaded = load_settings()
    faults = list(dict.fromkeys([*loaded.faults, *check_start(loaded)]))
    warnings = [*loaded.warnings, *([] if faults else notes(loaded.settings)[0])]
    if output.output_format() == "table":
        for warning in warnings:
            output.note(f"Warning: {warning}")
        if faults:
            raise CommandError("\n".join(faults))
    output.emit({"faults": faults, "warnings": warnings}, lambda: "The settings are good.")
    if faults:
        click.get_current_context().exit(1)


@config.command(examples=("llm-proxy config show --changed",))
@click.option("--changed", is_flag=True, help="Only variables that are set.")
@output.output_options
def show(changed: bool) -> None:
    """Print the settings in effect.

    Of secrets it says only whether they are set.
    """
    loaded = load_settings()
    rows = [
        (variable.env, shown(loaded.settings, path), loaded.sources.get(variable.env, "default"))
        for path, variable in variables().items()
        if not changed or variable.env in loaded.sources
    ]
    value = [{"variable": env, "value": text, "source": source} for env, text, source in rows]
    output.emit(value, lambda: output.table(("Variable", "Value", "From"), rows))
    if loaded.faults:
        raise CommandError("\n".join(loaded.faults))


@config.command("generate-key")
def generate_key() -> None:
    """Print a new value for ENCRYPTION_KEY."""
    click.echo(base64.b64encode(secrets.token_bytes(32)).decode())
