"""`llm-proxy migrate …`: the schema (management.md §2.3)."""

from collections.abc import Iterator
from contextlib import contextmanager

import click
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from llm_proxy.cli import output
from llm_proxy.cli.environment import settings
from llm_proxy.cli.errors import CommandError
from llm_proxy.cli.tree import Group
from llm_proxy.db import migrate as migrations
from llm_proxy.db.engine import create_engine
from llm_proxy.db.errors import DatabaseFault, WouldLoseData, is_unavailable
from llm_proxy.settings import Settings

_db_option = click.option("--db", metavar="PATH", help="The SQLite file (DATABASE_PATH).")


@contextmanager
def database(db: str | None = None) -> Iterator[tuple[Engine, Settings]]:
    """The configured database; what goes wrong with it is one line, without a driver's words."""
    found = settings(DATABASE_PATH=db)
    try:
        engine = create_engine(found)
    except DatabaseFault as fault:
        raise CommandError(str(fault)) from fault
    try:
        yield engine, found
    except DatabaseFault as fault:
        raise CommandError(str(fault)) from fault
    except SQLAlchemyError as error:
        words = "does not answer" if is_unavailable(error) else f"refused ({type(error).__name__})"
        raise CommandError(f"the {found.driver} database {words}") from error
    finally:
        engine.dispose()


@click.group("migrate", cls=Group)
def migrate() -> None:
    """Bring the database's schema up or down."""


@migrate.command()
@_db_option
def up(db: str | None) -> None:
    """Apply what is pending."""
    with database(db) as (engine, found):
        done = migrations.up(engine, found.migration_lock_timeout_s)
    for revision in done:
        output.note(f"Applied {revision}")
    click.echo("Migrations applied successfully")


@migrate.command()
@_db_option
@click.option("--yes", is_flag=True, help="Also when tables or columns with data are dropped.")
def down(db: str | None, yes: bool) -> None:
    """Undo the last migration."""
    with database(db) as (engine, found):
        try:
            migrations.down(engine, found.migration_lock_timeout_s, may_lose_data=yes)
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
@_db_option
@output.output_options
def status(db: str | None) -> None:
    """Show the version, and what is pending."""
    _show_status(db)


@migrate.command("version")
@_db_option
@output.output_options
def version(db: str | None) -> None:
    """Same as status."""
    _show_status(db)
