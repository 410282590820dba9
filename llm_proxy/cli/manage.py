"""`llm-proxy manage …`: projects, tokens and the cache, over HTTP or on the database itself."""

from collections.abc import Mapping
from typing import Any

import click

from llm_proxy.cli.base import Command, Group, commands_in
from llm_proxy.cli.management_client import ManagementClient, connect
from llm_proxy.cli.output import output_options

_META = "llm_proxy.manage"


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value is not None and value is not False:
        ctx.meta.setdefault(_META, {})[param.name] = value


def connection_options(command: Any) -> Any:
    """How the management API is reached; on groups and commands, the innermost that is given counts."""
    for names, options in (
        (
            ["--manage-api-base-url", "--api-base-url"],
            {"metavar": "URL", "help": "Server (MANAGEMENT_API_BASE_URL, else by LISTEN_ADDR)."},
        ),
        (
            ["--management-token"],
            {"metavar": "TOKEN|-|@FILE", "help": "Bearer (LLM_PROXY_MANAGEMENT_KEY, MANAGEMENT_TOKEN)."},
        ),
        (["--direct"], {"is_flag": True, "help": "Work on the configured database, without a server."}),
        (["--insecure"], {"is_flag": True, "help": "Accept any TLS certificate."}),
    ):
        option = click.Option(names, expose_value=False, is_eager=True, callback=_remember, **options)
        command.params.append(option)
    return command


class ManageCommand(Command):
    """A leaf with the options of the connection and of the output."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        connection_options(self)
        output_options(self)


class ManageGroup(Group):
    """A branch with the same options."""

    command_class = ManageCommand

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        connection_options(self)
        output_options(self)


ManageGroup.group_class = ManageGroup


def client() -> ManagementClient:
    """Return the management API, as this command's options reach it."""
    said: Mapping[str, Any] = click.get_current_context().meta.get(_META, {})
    return connect(
        base_url=said.get("manage_api_base_url"),
        management_token=said.get("management_token"),
        is_direct=bool(said.get("direct")),
        is_insecure=bool(said.get("insecure")),
    )


manage = ManageGroup(
    "manage",
    help="Projects, tokens and the cache.",
    lazy={
        **commands_in("cache", cache="Purge stored responses."),
        **commands_in("keys", key="Management keys of programs."),
        **commands_in("projects", project="Projects and their provider keys."),
        **commands_in("tokens", token="Withering tokens."),  # noqa: S106  (a line of help)
        **commands_in(
            "watching",
            bus="Length and lag of the event bus.",
            findings="What doctor finds in the server.",
            outcomes="How the requests of the last day ended.",
            session="People who are signed in.",
            settings="The settings in force in the server.",
            stats="Totals of projects, tokens, requests, money.",
            stream="Requests that run now.",
            audit_chain="Whether the server's audit trail is whole.",
            traffic="Traffic, errors, latency and money by hour or day.",
        ),
    },
)
