"""`llm-proxy migrate encrypt | encrypt-status | re-encrypt | decrypt`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Protocol

import click
from sqlalchemy import Engine

from llm_proxy.audit.record import AuditEvent
from llm_proxy.audit.writer import AuditWriter
from llm_proxy.cli import output
from llm_proxy.cli.base import Command
from llm_proxy.cli.database import database, db_option
from llm_proxy.cli.errors import CommandError
from llm_proxy.crypto import KeyRing, check_key_ring
from llm_proxy.db import migrate as migrations
from llm_proxy.db import sealing
from llm_proxy.model.audit_actions import AuditAction
from llm_proxy.settings import Settings

_NO_KEY = "ENCRYPTION_KEY is not set; make one with: openssl rand -base64 32"
_dry_run = click.option("--dry-run", is_flag=True, help="Only count what would be changed.")


@contextmanager
def _ready(db: str | None, *, needs_key: bool = True) -> Iterator[tuple[Engine, KeyRing, Settings]]:
    """Yield the migrated database and its ring. Raises CommandError without a key, or without that of a sealed row."""
    with database(db) as (engine, settings):
        ring = KeyRing.from_settings(settings.storage)
        if needs_key and ring.current_id is None:
            raise CommandError(_NO_KEY)
        migrations.require_current(engine)
        lacking = check_key_ring(engine, ring) if needs_key else None
        if lacking is not None:  # as at the start: one line, and nothing is changed
            raise CommandError(lacking)
        yield engine, ring, settings


@click.command("encrypt", cls=Command)
@db_option
@_dry_run
@output.output_options
def encrypt(db: str | None, dry_run: bool) -> None:
    """Seal provider keys and hash tokens that are stored in clear.

    Servers may go on serving: each accepts both forms. Repeat it at will; what is done is skipped.
    """
    with _ready(db) as (engine, ring, settings):
        keys = _with_bar(sealing.encrypt, engine, ring, dry_run)
        tokens = sealing.hash_tokens(engine, dry_run=dry_run)
        _record(engine, settings, dry_run, encrypted=keys.changed, hashed=tokens.changed)
    value = {"encrypted": keys.changed, "already_encrypted": keys.skipped, "hashed": tokens.changed}
    value |= {"already_hashed": tokens.skipped, "dry_run": dry_run}
    output.emit(
        value,
        lambda: (
            f"API keys: {keys.changed} encrypted, {keys.skipped} already encrypted (skipped)\n"
            f"Tokens: {tokens.changed} hashed, {tokens.skipped} already hashed (skipped)"
        ),
    )


@click.command("encrypt-status", cls=Command)
@db_option
@click.option("--check", is_flag=True, help="Exit with 1 if anything is stored in clear.")
@output.output_options
def encrypt_status(db: str | None, check: bool) -> None:
    """Count provider keys under each key, and tokens by form."""
    with _ready(db, needs_key=False) as (engine, ring, _):
        found = sealing.status(engine)
    value: dict[str, Any] = asdict(found) | {"sealed_keys": found.sealed_keys, "current_key": ring.current_id}

    def as_text() -> str:
        lines = ["API keys:", f"  Encrypted: {found.sealed_keys}"]
        lines += [f"    {_name(key, ring)}: {number}" for key, number in sorted(found.by_key.items())]
        lines += [f"  Plaintext: {found.plain_keys}", "Tokens:", f"  Hashed: {found.hashed_tokens}"]
        return "\n".join([*lines, f"  Plaintext: {found.plain_tokens}"])

    output.emit(value, as_text)
    for number, what in ((found.plain_keys, "API keys"), (found.plain_tokens, "tokens")):
        if number:
            output.note(f"Warning: {number} {what} are stored in clear; run llm-proxy migrate encrypt")
    if check and (found.plain_keys or found.plain_tokens):
        click.get_current_context().exit(1)


def _name(key: str, ring: KeyRing) -> str:
    if key == ring.current_id:
        return f"key {key} (ENCRYPTION_KEY)"
    if key in ring:
        return f"key {key} (ENCRYPTION_KEY_PREVIOUS)"
    return key if key.startswith("enc:") or " " in key else f"key {key} (not in the ring)"


@click.command("re-encrypt", cls=Command)
@db_option
@_dry_run
@output.output_options
def re_encrypt(db: str | None, dry_run: bool) -> None:
    """Seal provider keys again under ENCRYPTION_KEY.

    To rotate: give every server the new key as ENCRYPTION_KEY and the old one in ENCRYPTION_KEY_PREVIOUS, run this,
    then take the old one away. A run that was broken off is repeated.
    """
    with _ready(db) as (engine, ring, settings):
        done = _with_bar(sealing.re_encrypt, engine, ring, dry_run)
        _record(engine, settings, dry_run, re_encrypted=done.changed)
    _tell(done, "re-encrypted", "already under ENCRYPTION_KEY or in clear (skipped)", dry_run)


@click.command("decrypt", cls=Command)
@db_option
@_dry_run
@click.option("--yes", is_flag=True, help="Really store provider keys in clear.")
@output.output_options
def decrypt(db: str | None, dry_run: bool, yes: bool) -> None:
    """Store provider keys in clear again."""
    if not yes and not dry_run:
        raise CommandError("provider keys will be stored in clear; confirm with --yes")
    with _ready(db) as (engine, ring, settings):
        done = _with_bar(sealing.decrypt, engine, ring, dry_run)
        _record(engine, settings, dry_run, decrypted=done.changed)
    _tell(done, "decrypted", "already in clear (skipped)", dry_run)


class _Action(Protocol):
    def __call__(
        self, engine: Engine, ring: KeyRing, *, dry_run: bool = False, progress: sealing.Progress
    ) -> sealing.Done: ...


def _with_bar(action: _Action, engine: Engine, ring: KeyRing, dry_run: bool) -> sealing.Done:
    """Run it under a progress bar on stderr if it is a terminal."""
    if not output.is_terminal():
        return action(engine, ring, dry_run=dry_run, progress=lambda _: None)
    total, errors = sealing.count(engine), sys.stderr
    with click.progressbar(length=total, label="Provider keys", file=errors) as bar:
        return action(engine, ring, dry_run=dry_run, progress=bar.update)


def _tell(done: sealing.Done, verb: str, skipped: str, dry_run: bool) -> None:
    value = {verb.replace("-", "_"): done.changed, "skipped": done.skipped, "broken": done.broken, "dry_run": dry_run}
    output.emit(value, lambda: f"API keys: {done.changed} {verb}, {done.skipped} {skipped}")
    if done.broken:
        raise CommandError("\n".join(f"the key of project {row} does not open: set it again" for row in done.broken))


def _record(engine: Engine, settings: Settings, dry_run: bool, **counts: int) -> None:
    """`system.encrypt` in the audit trail, when something was changed."""
    if dry_run:
        output.note("Dry run: nothing was changed")
    if dry_run or not any(counts.values()):
        return
    writer = AuditWriter.from_settings(engine, settings)
    writer.record(AuditEvent(AuditAction.SYSTEM_ENCRYPT, "cli", "success", details=counts))
    writer.close()
