"""`llm-proxy manage cache purge`."""

from typing import Any

import click

from llm_proxy.cli import output
from llm_proxy.cli.errors import CommandError
from llm_proxy.cli.manage import ManageGroup, client
from llm_proxy.cli.options import confirm, given, yes_option
from llm_proxy.cli.references import project_id as id_of


@click.group("cache", cls=ManageGroup)
def cache() -> None:
    """Purge stored responses."""


@cache.command(
    examples=(
        "llm-proxy manage cache purge --prefix /v1/models",
        "llm-proxy manage cache purge --project-id my-team",
        "llm-proxy manage cache purge --all",
    )
)
@click.option("--method", metavar="METHOD", help="With --url: the request's method.")
@click.option("--url", metavar="URL", help="One stored response, all its variants.")
@click.option("--prefix", metavar="PREFIX", help="All whose path (or key) begins with it.")
@click.option("--key", metavar="KEY", help="The one with this X-PROXY-CACHE-KEY.")
@click.option(
    "--project-id", "--project", metavar="PROJECT", help="All of one project; with --prefix only those of it."
)
@click.option("--all", "is_all", is_flag=True, help="Everything.")
@yes_option
def purge(
    method: str | None,
    url: str | None,
    prefix: str | None,
    key: str | None,
    project_id: str | None,
    is_all: bool,
    yes: bool,
) -> None:
    """Remove stored responses from a server's cache."""
    api = client()
    project_id = None if project_id is None else id_of(api, project_id)
    body = given(method=method, url=url, prefix=prefix, key=key, project_id=project_id)
    if is_all:
        body["all"] = True
    if not (prefix or key or project_id or is_all) and not (method and url):
        raise CommandError("--method and --url, or one of --prefix, --key, --project-id, --all must be set")
    if is_all:
        confirm("Remove all stored responses of all projects?", yes)
    found: dict[str, Any] = api.call("POST", "/manage/cache/purge", body=body)
    output.emit(found, lambda: _text(found["deleted"], is_prefix=prefix is not None))


def _text(deleted: bool | int, *, is_prefix: bool) -> str:
    if isinstance(deleted, bool):
        return "Cache entry deleted successfully" if deleted else "Cache entry was not found"
    return f"Cache {'prefix ' if is_prefix else ''}purge completed: {deleted} entries deleted"
