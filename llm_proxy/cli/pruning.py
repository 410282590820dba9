"""`llm-proxy audit prune` and `llm-proxy manage token prune`: what is old is deleted, on the database itself."""

from datetime import datetime, timedelta

import click
from sqlalchemy import Engine

from llm_proxy.audit import pruning
from llm_proxy.audit.record import AuditEvent
from llm_proxy.audit.writer import AuditWriter
from llm_proxy.cli import output
from llm_proxy.cli.base import Command
from llm_proxy.cli.database import database, db_option
from llm_proxy.cli.errors import CommandError
from llm_proxy.cli.options import confirm, yes_option
from llm_proxy.cli.output import counted
from llm_proxy.db import migrate
from llm_proxy.db.clock import now_of
from llm_proxy.model.audit_actions import AuditAction
from llm_proxy.settings import Settings
from llm_proxy.settings.variable import duration_s
from llm_proxy.tokens import pruning as token_pruning


@click.command(
    "prune",
    cls=Command,
    examples=("llm-proxy audit prune --older-than 90d --dry-run", "llm-proxy audit prune --older-than 90d --yes"),
)
@click.option("--older-than", required=True, metavar="TIME", help="From so long ago: 90d, 12h.")
@click.option("--dry-run", is_flag=True, help="Only count what would be deleted.")
@click.option("--past-faults", is_flag=True, help="Also what is old behind a broken record.")
@yes_option
@db_option
@output.output_options
def prune_audit(older_than: str, dry_run: bool, past_faults: bool, yes: bool, db: str | None) -> None:
    """Delete old records from the table.

    Works on the configured database, in batches while servers serve, and leaves a system.cleanup record; the audit file
    is left alone. Chains keep their proof: see audit verify. What comes after a broken record stays, unless
    --past-faults is given.
    """
    try:
        age = timedelta(seconds=duration_s(older_than))
    except (ValueError, OverflowError):
        raise CommandError("--older-than: expected a duration such as 90d or 12h") from None
    with database(db) as (engine, settings):
        migrate.require_current(engine)
        before = now_of(engine) - age
        if dry_run:
            done = pruning.Pruned(pruning.count(engine, before))
        else:
            confirm(
                f"Delete {counted(pruning.count(engine, before), 'audit record')} of before {before:%Y-%m-%d %H:%M}Z?",
                yes,
            )
            done = _prune_audit(engine, settings, before, past_faults)
    value = {"would_delete" if dry_run else "deleted": done.rows}
    output.emit(value, lambda: f"{counted(done.rows, 'record')} {'would be deleted' if dry_run else 'deleted'}")
    for fault in done.faults:
        output.note(f"Warning: {fault}; what comes after it was kept")


def _prune_audit(engine: Engine, settings: Settings, before: datetime, past_faults: bool) -> pruning.Pruned:
    writer = AuditWriter.from_settings(engine, settings)
    done = pruning.Pruner(engine, writer.chain, actor="cli", past_faults=past_faults).prune(before)
    if done.rows:
        writer.record(AuditEvent(AuditAction.SYSTEM_CLEANUP, "cli", "success", details={"audit_deleted": done.rows}))
    writer.close()
    return done


@click.command("prune", cls=Command, examples=("llm-proxy manage token prune --older-than 90d --yes",))
@click.option("--older-than", required=True, metavar="TIME", help="Dead for so long: 90d, 12h.")
@click.option("--yes", is_flag=True, help="Really delete them; without it they are only counted.")
@db_option
@output.output_options
def prune_tokens(older_than: str, yes: bool, db: str | None) -> None:
    """Delete tokens that were revoked or have expired long ago.

    Works on the configured database, and leaves a system.cleanup record in the audit trail. Usage is kept.
    """
    try:
        age_s = duration_s(older_than)
    except ValueError as exc:
        raise CommandError(f"--older-than: expected {exc}") from None
    with database(db) as (engine, settings):
        migrate.require_current(engine)
        before = now_of(engine) - timedelta(seconds=age_s)
        number = token_pruning.prune(engine, before) if yes else token_pruning.count(engine, before)
        if yes and number:
            writer = AuditWriter.from_settings(engine, settings)
            writer.record(AuditEvent(AuditAction.SYSTEM_CLEANUP, "cli", "success", details={"deleted": number}))
            writer.close()
    value = {"deleted" if yes else "would_delete": number}
    output.emit(
        value, lambda: f"{number} tokens deleted" if yes else f"{number} tokens would be deleted; confirm with --yes"
    )
