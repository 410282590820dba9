"""`llm-proxy migrate …` and `db …`: the schema, and the database as a whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import click
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from llm_proxy.cli import output
from llm_proxy.cli.base import Group, commands_in
from llm_proxy.cli.environment import settings
from llm_proxy.cli.errors import CommandError
from llm_proxy.db import maintenance
from llm_proxy.db import migrate as migrations
from llm_proxy.db.connector import connector_of
from llm_proxy.db.engine import create_engine
from llm_proxy.db.errors import DatabaseFault, WouldLoseData, in_words
from llm_proxy.model.token import expired_before
from llm_proxy.settings import Settings

db_option = click.option("--db", type=click.Path(), metavar="PATH", help="The SQLite file (DATABASE_PATH).")


@contextmanager
def database(db: str | None = None) -> Iterator[tuple[Engine, Settings]]:
    """Yield the configured database; an error of it is one line, without a driver's words."""
    found = settings(DATABASE_PATH=db)
    try:
        engine = create_engine(found.storage)
    except DatabaseFault as fault:
        raise CommandError(str(fault)) from fault
    try:
        yield engine, found
    except DatabaseFault as fault:
        raise CommandError(str(fault)) from fault
    except SQLAlchemyError as error:
        raise CommandError(f"database {connector_of(engine).where}: {in_words(error)}") from error
    finally:
        engine.dispose()


_SEALING = commands_in(
    "sealing",
    encrypt="Seal provider keys and hash tokens that are stored in clear.",
    encrypt_status="Count provider keys by key, and tokens by form.",
    re_encrypt="Seal provider keys again under ENCRYPTION_KEY.",
    decrypt="Store provider keys in clear again.",
)


@click.group("migrate", cls=Group, lazy=_SEALING)
def migrate() -> None:
    """Bring the database's schema up or down."""


@migrate.command()
@db_option
def up(db: str | None) -> None:
    """Apply what is pending."""
    with database(db) as (engine, found):
        done = migrations.up(engine, found.storage.migration_lock_timeout_s)
    for revision in done:
        output.note(f"Applied {revision}")
    click.echo("Migrations applied successfully")


@migrate.command()
@db_option
@click.option("--yes", is_flag=True, help="Also when tables or columns with data are dropped.")
def down(db: str | None, yes: bool) -> None:
    """Undo the last migration."""
    with database(db) as (engine, found):
        try:
            migrations.down(engine, found.storage.migration_lock_timeout_s, may_lose_data=yes)
        except WouldLoseData as fault:
            raise CommandError(f"{fault}; confirm with --yes") from fault
    click.echo("Migration rolled back successfully")


def _show_status(db: str | None) -> None:
    with database(db) as (engine, _):
        status = migrations.status(engine)
    value = {"version": status.version, "head": status.head, "pending": status.pending}
    output.emit(value, lambda: f"Current migration version: {status.version}")
    if status.pending:
        output.note(f"{len(status.pending)} pending: {', '.join(status.pending)}")
    if status.is_too_new:
        output.note(f"Warning: newer than this program, which knows version {status.head}")


@migrate.command("status")
@db_option
@output.output_options
def status(db: str | None) -> None:
    """Show the version, and what is pending."""
    _show_status(db)


@migrate.command("version")
@db_option
@output.output_options
def version(db: str | None) -> None:
    """Print what `status` prints."""
    _show_status(db)


@click.group("db", cls=Group)
def db() -> None:
    """Copy, count and tidy the database."""


@db.command()
@click.argument("target", type=click.Path(), metavar="PATH")
@db_option
def backup(target: str, db: str | None) -> None:
    """Copy the database while servers keep running.

    SQLite is copied to PATH, which must not exist yet. For PostgreSQL and MySQL the command that dumps to PATH is
    printed.
    """
    with database(db) as (_, found):
        if found.storage.driver == "sqlite":
            with output.working(f"Copying to {target}"):
                maintenance.backup(Path(found.storage.path), Path(target))
            click.echo(f"Copied to {target}")
        else:
            click.echo(maintenance.dump_command(found.storage.url or "", target))


@db.command()
@db_option
@output.output_options
def stats(db: str | None) -> None:
    """Count projects, tokens, requests and records."""
    with database(db) as (engine, _):
        migrations.require_current(engine)
        found = maintenance.stats(engine, expired_before)
    value = asdict(found)
    size = None if found.size_bytes is None else _size(found.size_bytes)

    def as_text() -> str:
        counts = {name.replace("_", " ").capitalize(): number for name, number in value.items() if name != "size_bytes"}
        return output.lines({"Size": size, **counts})

    output.emit(value, as_text)


def _size(count: int) -> str:
    return f"{count / 1024**2:.1f} MiB" if count >= 1024**2 else f"{count / 1024:.0f} KiB"


@db.command()
@db_option
def maintain(db: str | None) -> None:
    """Reclaim space and renew the planner's statistics.

    With SQLite, writers wait until it is done: not at a busy hour.
    """
    with database(db) as (engine, _):
        migrations.require_current(engine)
        maintenance.maintain(engine)
    click.echo("Done")
