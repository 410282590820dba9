"""`llm-proxy dispatcher`: runs the dispatcher, and looks after its dead letters."""

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import wraps
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

import click

from llm_proxy.cli import daemon
from llm_proxy.cli.base import Command, Group
from llm_proxy.cli.datetimes import MomentOption
from llm_proxy.cli.environment import ENV_FILE, env_file, environ, remember_env_file, settings
from llm_proxy.cli.errors import CommandError, NetworkError
from llm_proxy.cli.options import back_end_options, confirm, plain_option, read_secret, yes_option
from llm_proxy.cli.output import emit, emit_table, note, output_options, second, wide_option
from llm_proxy.dispatcher.readiness import ARGUMENT, OPENED
from llm_proxy.operations.bus_state import facts_of
from llm_proxy.settings import Settings

_KEY = "LLM_PROXY_API_KEY"
_EXAMPLES = (
    "Examples:",
    "  llm-proxy dispatcher --service file --endpoint events.jsonl",
    "  llm-proxy dispatcher --service lunary --api-key-file key.txt",
    "  llm-proxy dispatcher dead-letters list",
)
_START_S = 60.0  # for a detached process to read its configuration and take its health port
_OPEN_S = 1.5  # for it to reach the bus afterwards: one that is unavailable is waited for in the background


class _Runner(Group):
    """A group that is its own command when no subcommand is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Without arguments it runs; it does not show its help."""
        return click.Group.parse_args(self, ctx, args)


@click.group("dispatcher", cls=_Runner, invoke_without_command=True, closing=_EXAMPLES)
@back_end_options
@click.option("--api-key-file", type=click.Path(), metavar="PATH", help="File with the key.")
@click.option("--buffer", metavar="N", help="Events held unacknowledged (DISPATCHER_BUFFER).")
@click.option("--batch-size", metavar="N", help="Events per delivery (DISPATCHER_BATCH_SIZE).")
@click.option("--flush-interval", metavar="TIME", help="Oldest event of a batch (DISPATCHER_FLUSH_INTERVAL).")
@click.option("--retry-attempts", metavar="N", help="Retries of a batch (DISPATCHER_RETRY_ATTEMPTS).")
@click.option("--retry-backoff", metavar="TIME", help="First pause between tries (DISPATCHER_RETRY_BACKOFF).")
@click.option("--timeout", metavar="TIME", help="Total limit of a send (DISPATCHER_TIMEOUT).")
@click.option("--concurrency", metavar="N", help="Parallel posts to Helicone (DISPATCHER_CONCURRENCY).")
@click.option("--health-addr", metavar="ADDRESS", help="Probes and metrics, '' = none (DISPATCHER_HEALTH_ADDR).")
@click.option("--methods", metavar="LIST", help="Methods that are forwarded (DISPATCHER_METHODS).")
@click.option("--max-deliveries", metavar="N", help="Failures before a dead letter (DISPATCHER_MAX_DELIVERIES).")
@click.option("--dead-letter-max-len", metavar="N", help="Dead letters kept (DISPATCHER_DEAD_LETTER_MAX_LEN).")
@click.option("--verbose", is_flag=True, help="Send response header fields along (LLM_PROXY_DISPATCHER_VERBOSE).")
@click.option("--once", is_flag=True, help="End when nothing is left; 1 if something had to stay.")
@click.option("--detach", is_flag=True, help="Run in the background; prints the pid (DISPATCHER_DETACH).")
@click.option(
    "--log-file", type=click.Path(), metavar="PATH", help="File for log lines, needed with --detach (LOG_FILE)."
)
@click.option("--pid-file", type=click.Path(), metavar="PATH", help="Where the pid is kept (with --detach).")
@click.option(
    "--env",
    metavar="PATH",
    expose_value=False,
    is_eager=True,
    callback=remember_env_file,
    help="Env file to read beside the environment (.env).",
)
@click.pass_context
def dispatcher(ctx: click.Context, /, **said: Any) -> None:
    """Carry events from the bus to a service, at least once.

    Everything comes from the environment and .env; flags win over both. SIGTERM sends what is held and ends; SIGHUP
    reopens the file.
    """
    flags = _flags(said)
    if ctx.invoked_subcommand is not None:
        ctx.obj = flags
        return
    found = _checked(flags)
    command = [sys.executable, "-m", "llm_proxy.dispatcher", *(["--once"] if said["once"] else [])]
    if said["detach"] or found.dispatcher.detach:
        if found.operation.log_file is None:
            raise CommandError("--log-file must be specified when running in the background (--detach)")
        click.echo(_detach(command, _variables(flags), found.operation.log_file, said["pid_file"]))
        return
    sys.stdout.flush()
    os.execve(command[0], command, _variables(flags))  # noqa: S606  (this interpreter, no shell)


def _flags(said: dict[str, Any]) -> dict[str, str]:
    """Variables that the flags stand for."""
    named = {
        "DISPATCHER_SERVICE": said["service"],
        "DISPATCHER_ENDPOINT": said["endpoint"],
        "DISPATCHER_BUFFER": said["buffer"],
        "DISPATCHER_BATCH_SIZE": said["batch_size"],
        "DISPATCHER_FLUSH_INTERVAL": said["flush_interval"],
        "DISPATCHER_RETRY_ATTEMPTS": said["retry_attempts"],
        "DISPATCHER_RETRY_BACKOFF": said["retry_backoff"],
        "DISPATCHER_TIMEOUT": said["timeout"],
        "DISPATCHER_CONCURRENCY": said["concurrency"],
        "DISPATCHER_HEALTH_ADDR": said["health_addr"],
        "DISPATCHER_METHODS": said["methods"],
        "DISPATCHER_MAX_DELIVERIES": said["max_deliveries"],
        "DISPATCHER_DEAD_LETTER_MAX_LEN": said["dead_letter_max_len"],
        "LLM_PROXY_DISPATCHER_VERBOSE": "true" if said["verbose"] else None,
        "LOG_FILE": said["log_file"],
        _KEY: _key(said["api_key"], said["api_key_file"]),
    }
    return {name: value for name, value in named.items() if value is not None}


def _key(given: str | None, path: str | None) -> str | None:
    if given is not None and path is not None:
        raise CommandError("expected only one of --api-key and --api-key-file")
    if path is not None:
        return read_secret("--api-key-file", f"@{path}")
    if given is not None and given != "-" and not given.startswith("@"):
        note("Warning: a key on the command line shows in the process list; use --api-key-file")
    return read_secret("--api-key", given)


def _checked(flags: dict[str, str]) -> Settings:
    """Return the settings, good for a dispatcher. Raises CommandError."""
    from llm_proxy.dispatcher.options import OptionsError, options

    found = settings(**flags)
    try:
        options(found)
    except OptionsError as exc:
        raise CommandError(str(exc)) from None
    return found


def _variables(flags: dict[str, str]) -> dict[str, str]:
    """Return the environment of the process: flags travel as variables, so that its arguments show no key."""
    variables = {name: value for name, value in environ().items() if name != "FLASK_RUN_FROM_CLI"}
    if _KEY in flags:
        variables.pop(f"{_KEY}_FILE", None)
    variables |= flags
    named = env_file()
    if named is not None:
        variables[ENV_FILE] = named
    return variables


def _detach(command: list[str], variables: dict[str, str], log_file: Path, pid_file: str | None) -> int:
    """Its own session; its output goes to the log file. Raises CommandError when it ends at once."""
    pid_path = Path(pid_file) if pid_file else None
    if pid_path is not None:
        daemon.claim(pid_path)
    reader, writer = os.pipe()
    try:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        with log_file.open("ab") as log:
            process = subprocess.Popen(  # noqa: S603  (this interpreter)
                [*command, f"{ARGUMENT}{writer}"],
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[writer],
            )
    except OSError as exc:
        raise CommandError(f"cannot write {log_file}: {exc.strerror}") from None
    finally:
        os.close(writer)
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        if _has_ended(pipe) and process.wait() != 0:
            raise CommandError(f"the dispatcher ended at its start; see {log_file}")
    if pid_path is not None:
        pid_path.write_text(f"{process.pid}\n")
    return process.pid


def _has_ended(pipe: FileIO) -> bool:
    """Wait for what the process tells of its start; return whether it ended before it reached the bus."""
    deadline = time.monotonic() + _START_S
    while select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
        word = pipe.read(1)
        if not word or word == OPENED:
            return not word
        deadline = time.monotonic() + _OPEN_S
    return False


# -- dead letters ----------------------------------------------------------------------------------------------------


@dispatcher.group("dead-letters")
def dead_letters() -> None:
    """Events that could not be delivered."""


_REASONS = ("unparsable", "transform_error", "rejected", "exhausted")
_reason = click.option("--reason", type=click.Choice(_REASONS), help="Only those given up for it.")
_since = click.option("--since", cls=MomentOption, help="Only those given up since then.")
_limit = plain_option("--limit", type=click.IntRange(1), metavar="N", help="At most so many.")


class _Choice(NamedTuple):
    """The dead letters that a command is about: these, or all that match."""

    ids: tuple[str, ...]
    reason: str | None
    since_s: float | None
    limit: int | None


def _choice(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what chooses dead letters, and hand it on as one object."""

    @wraps(command)
    def chosen(ids: tuple[str, ...], reason: str | None, since: datetime | None, limit: int | None, **rest: Any) -> Any:
        return command(choice=_Choice(ids, reason, _seconds(since), limit), **rest)

    return click.argument("ids", nargs=-1, metavar="[ID]...")(_reason(_since(_limit(chosen))))


@contextmanager
def _letters(ctx: click.Context) -> Iterator[Any]:
    """Yield the dead letters of the bus. Redis' errors become exit code 2."""
    from llm_proxy.dispatcher.options import OptionsError, options
    from llm_proxy.dispatcher.process import make_dead_letters
    from llm_proxy.redisclient import unreachable

    group = ctx.find_object(dict) or {}
    try:
        yield make_dead_letters(options(settings(**{**group, "DISPATCHER_SERVICE": "file"})))
    except OptionsError as exc:
        raise CommandError(str(exc)) from None
    except unreachable() as exc:
        raise NetworkError(f"Redis does not answer: {type(exc).__name__}") from None


@dead_letters.command("list", cls=Command)
@_reason
@_since
@_limit
@wide_option
@output_options
@click.pass_context
def list_letters(ctx: click.Context, reason: str | None, since: datetime | None, limit: int | None) -> None:
    """List them, the oldest first, without their contents."""
    with _letters(ctx) as letters:
        found = [facts_of(letter) for letter in letters.find(reason=reason, since_s=_seconds(since), limit=limit)]
    columns = ("id", "at", "reason", "service", "attempts", "error")

    def row(letter: Mapping[str, Any]) -> Sequence[Any]:
        return [second(letter[name]) if name == "at" else letter[name] for name in columns]

    emit_table(found, [name.upper() for name in columns], row, optional=("ATTEMPTS", "SERVICE"))


@dead_letters.command("show", cls=Command)
@click.argument("letter_id", metavar="ID")
@output_options
@click.pass_context
def show_letter(ctx: click.Context, letter_id: str) -> None:
    """Show one with its event. Prompts and responses are part of it."""
    import json

    with _letters(ctx) as letters:
        letter = letters.get(letter_id)
    if letter is None:
        raise CommandError(f"no dead letter has the id {letter_id}")
    try:
        data = json.loads(letter.data)
    except ValueError:
        data = letter.data.decode("utf-8", "replace")
    found = {**facts_of(letter), "data": data}
    emit(found, lambda: json.dumps(found, indent=2, ensure_ascii=False))


def _act(ctx: click.Context, choice: _Choice, what: str) -> int:
    done = 0
    with _letters(ctx) as letters:
        if choice.ids:
            chosen = [letters.get(letter_id) for letter_id in choice.ids]
            missing = [letter_id for letter_id, letter in zip(choice.ids, chosen, strict=True) if letter is None]
            if missing:
                raise CommandError(f"no dead letter has the id {missing[0]}")
        else:
            chosen = letters.find(reason=choice.reason, since_s=choice.since_s, limit=choice.limit)
        for letter in chosen:
            getattr(letters, what)(letter)
            done += 1
    return done


@dead_letters.command("replay", cls=Command)
@_choice
@output_options
@click.pass_context
def replay_letters(ctx: click.Context, choice: _Choice) -> None:
    """Put them back on the bus; all that match when no ID is given."""
    done = _act(ctx, choice, "replay")
    emit({"replayed": done}, lambda: f"{done} replayed")


@dead_letters.command("drop", cls=Command)
@_choice
@yes_option
@output_options
@click.pass_context
def drop_letters(ctx: click.Context, choice: _Choice, yes: bool) -> None:
    """Delete them for good; all that match when no ID is given."""
    if not choice.ids:
        confirm("Delete all dead letters that match?", yes)
    done = _act(ctx, choice, "drop")
    emit({"dropped": done}, lambda: f"{done} dropped")


def _seconds(at: datetime | None) -> float | None:
    return at.astimezone(UTC).timestamp() if at is not None else None
