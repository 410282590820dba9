"""`llm-proxy events`: watch events as they come, and deliver past ones again."""

import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from llm_proxy.cli.base import Command, Group
from llm_proxy.cli.datetimes import MomentOption
from llm_proxy.cli.environment import settings
from llm_proxy.cli.errors import CommandError, NetworkError
from llm_proxy.cli.options import back_end_options, plain_option, read_secret
from llm_proxy.cli.output import emit, note, output_options, working
from llm_proxy.events.event import Event
from llm_proxy.settings import Settings

_COLOURS = {1: "white", 2: "green", 3: "cyan", 4: "yellow", 5: "red"}
_NO_SOURCE = (
    "the in-memory bus shows its events only inside the server: set FILE_EVENT_LOG (or name it with --file), or "
    "use a Redis bus"
)


@click.group("events", cls=Group)
def events() -> None:
    """Watch and replay events."""


# -- tail ------------------------------------------------------------------------------------------------------------


@events.command(
    "tail",
    cls=Command,
    examples=("llm-proxy events tail --status errors", "llm-proxy events tail --path /v1/chat --no-follow --json"),
)
@click.option("--project-id", metavar="ID", help="Only this project's.")
@click.option("--status", metavar="STATUS", help="Only this status, or class: 404, 4xx, errors.")
@click.option("--path", metavar="PREFIX", help="Only paths that begin with it.")
@click.option("--file", "path_of_file", type=click.Path(path_type=Path), help="File of events (FILE_EVENT_LOG).")
@plain_option("--lines", "-n", type=click.IntRange(0), metavar="N", default=10, help="Past events shown first (10).")
@click.option("--no-follow", is_flag=True, help="End after the past events.")
@click.option("--json", "is_json", is_flag=True, help="A line of JSON an event.")
def tail(
    project_id: str | None,
    status: str | None,
    path: str | None,
    path_of_file: Path | None,
    lines: int,
    no_follow: bool,
    is_json: bool,
) -> None:
    """Show events as they come, until Ctrl-C."""
    from llm_proxy.events.tail import follow_file, follow_list, follow_stream
    from llm_proxy.redisclient import unreachable

    found = settings()
    wanted = _filter(project_id, status, path)
    is_following = not no_follow
    file = path_of_file or found.events.file_log
    try:
        if path_of_file is not None or (found.events.bus == "in-memory" and file is not None):
            assert file is not None
            source = follow_file(file, lines, is_following=is_following)
        elif found.events.bus == "in-memory":
            raise CommandError(_NO_SOURCE)
        elif found.events.bus == "redis":
            source = follow_list(_client(found), found.events.list_key, lines, is_following=is_following)
        else:
            source = follow_stream(_client(found), found.events.stream_key, lines, is_following=is_following)
        for event in source:
            if wanted(event):
                click.echo(_json_line(event) if is_json else _line(event))
                sys.stdout.flush()
    except unreachable() as exc:
        if isinstance(exc, FileNotFoundError):
            raise CommandError(f"{file} is not there") from None
        raise NetworkError(f"Redis does not answer: {type(exc).__name__}") from None


def _client(found: Settings) -> Any:
    from llm_proxy import redisclient

    try:
        return redisclient.connect(redisclient.target(found.redis), timeout_s=10.0)
    except ValueError as exc:
        raise CommandError(f"REDIS_ADDR: expected {exc}") from None


def _filter(project_id: str | None, status: str | None, path: str | None) -> Callable[[Event], bool]:
    """Return what a tail shows. Raises CommandError for a status that makes no sense."""
    matches = _status_filter(status)

    def wanted(event: Event) -> bool:
        if project_id is not None and event.project_id != project_id:
            return False
        return matches(event.status) and (path is None or event.path.startswith(path))

    return wanted


def _status_filter(status: str | None) -> Callable[[int], bool]:
    if status is None:
        return lambda _: True
    lowered = status.lower()
    if lowered == "errors":
        return lambda number: number >= 400
    if len(lowered) == 3 and lowered[0] in "12345" and lowered[1:] == "xx":
        return lambda number: number // 100 == int(lowered[0])
    if lowered.isdigit():
        return lambda number: number == int(lowered)
    raise CommandError(f"--status {status}: expected a status such as 404, a class such as 4xx, or errors")


def _line(event: Event) -> str:
    """One event for people; click takes the colours out where no terminal reads."""
    at = event.started_at.strftime("%Y-%m-%d %H:%M:%S") if event.started_at else "-"
    status = click.style(str(event.status), fg=_COLOURS.get(event.status // 100), bold=event.status >= 500)
    usage = f" tokens={event.usage}" if event.usage else ""
    parts = [
        click.style(at, dim=True),
        status,
        f"{event.method:<6}",
        event.path,
        f"{event.duration_ns / 1e6:.0f}ms",
        click.style(event.outcome or "-", fg="red" if event.status >= 500 else None),
        click.style(f"project={event.project_id or '-'} request={event.request_id}{usage}", dim=True),
    ]
    return "  ".join("".join(c if c.isprintable() or c == "\x1b" else "?" for c in part) for part in parts)


def _json_line(event: Event) -> str:
    return event.to_wire().decode()


# -- replay ----------------------------------------------------------------------------------------------------------


@events.command("replay", cls=Command)
@click.option("--from", "since", cls=MomentOption, help="Only events of requests from then on.")
@click.option("--to", "until", cls=MomentOption, help="Only events of requests before then.")
@back_end_options
@click.option("--file", "path", type=click.Path(path_type=Path), help="File of events, in place of the bus.")
@output_options
def replay(
    since: datetime | None,
    until: datetime | None,
    service: str | None,
    endpoint: str | None,
    api_key: str | None,
    path: Path | None,
) -> None:
    """Deliver past events, of a file or of the bus, to a service.

    Services recognise an event that they have by its id. Exits with 1 if something was not delivered.
    """
    from llm_proxy.dispatcher.backends.base import BackendError
    from llm_proxy.dispatcher.options import OptionsError, options
    from llm_proxy.dispatcher.replay import Replay
    from llm_proxy.redisclient import unreachable

    flags = {
        "DISPATCHER_SERVICE": service,
        "DISPATCHER_ENDPOINT": endpoint,
        "LLM_PROXY_API_KEY": read_secret("--api-key", api_key),
    }
    found = settings(**flags)
    file = path or (found.events.file_log if found.events.bus == "in-memory" else None)
    if file is None and found.events.bus == "in-memory":
        raise CommandError(_NO_SOURCE)
    try:
        run = Replay(options(found, needs_bus=False))
        with working("Replaying events"):
            done = run.deliver(_past(found, file, since, until))
    except (OptionsError, BackendError) as exc:
        raise CommandError(str(exc)) from None
    except unreachable() as exc:
        if file is not None:
            raise CommandError(f"{file} cannot be read") from None
        raise NetworkError(f"Redis does not answer: {type(exc).__name__}") from None
    for error, count in done.errors.items():
        note(f"{count} not delivered: {error}")
    emit(done.to_json(), lambda: f"{done.delivered} delivered, {done.skipped} skipped, {done.failed} failed")
    if done.failed:
        click.get_current_context().exit(1)


def _past(found: Settings, file: Path | None, since: datetime | None, until: datetime | None) -> Iterator[Event]:
    from llm_proxy.events.tail import past_of_file, past_of_list, past_of_stream

    if file is not None:
        source = past_of_file(file)
    elif found.events.bus == "redis":
        source = past_of_list(_client(found), found.events.list_key)
    else:
        source = past_of_stream(_client(found), found.events.stream_key)
    for event in source:
        at = event.started_at
        if since is not None and (at is None or at < since):
            continue
        if until is not None and (at is None or at >= until):
            continue
        yield event
