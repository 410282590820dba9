"""What a start does with the database before anything is served."""

import logging
import time
from collections.abc import Callable

import sqlalchemy.exc
from sqlalchemy import Engine, text

from llm_proxy.crypto import KeyRing, check_key_ring
from llm_proxy.db import migrate
from llm_proxy.db.connector import connector_of
from llm_proxy.db.errors import DatabaseAway, DatabaseFault, in_words, is_unavailable
from llm_proxy.db.session import read_transaction
from llm_proxy.settings import StorageSettings

_LOG = logging.getLogger(__name__)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0
_NOT_YET = ((1044,), (1045,), (1049,), (1130,))  # MySQL: user or database is not there


class KeyRingFault(DatabaseFault):
    """Rows are sealed under a key that this start does not have."""


def prepare(engine: Engine, settings: StorageSettings) -> list[str]:
    """Migrate, or see that nothing is pending; then see that every sealed row has its key. Returns what was migrated.

    Raises:
        DatabaseAway: The database can't be reached, or refuses to talk; a later try may work.
        DatabaseFault: The start must stop; the message is the one line to say. Nothing was changed, unless it was
            the migration itself that failed.
    """
    try:
        return _prepare(engine, settings)
    except (sqlalchemy.exc.SQLAlchemyError, OSError) as error:
        where = connector_of(engine).where
        kind = DatabaseAway if is_away(error) else DatabaseFault
        raise kind(f"database {where}: {in_words(error)}") from error


def prepare_patiently(
    engine: Engine, settings: StorageSettings, *, is_wanted: Callable[[], bool] = lambda: True
) -> list[str]:
    """Prepare again and again while the database is unavailable, for DATABASE_STARTUP_TIMEOUT.

    Args:
        is_wanted: Asked before each further try.

    Raises:
        DatabaseFault: As `prepare`; also when the time is over.
    """
    until, pause_s = time.monotonic() + settings.startup_timeout_s, _FIRST_PAUSE_S
    while True:
        try:
            return prepare(engine, settings)
        except DatabaseAway as away:
            if time.monotonic() + pause_s > until or not is_wanted():
                limit = f"{settings.startup_timeout_s:g} s"
                raise DatabaseFault(f"{away}, for all of DATABASE_STARTUP_TIMEOUT ({limit})") from away
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def is_away(error: BaseException) -> bool:
    """Whether the database could not be talked to at all: a user that is missing today may be there in a minute."""
    refused = isinstance(error, sqlalchemy.exc.DBAPIError) and getattr(error.orig, "args", (0,))[:1] in _NOT_YET
    return refused or is_unavailable(error)


def _prepare(engine: Engine, settings: StorageSettings) -> list[str]:
    if settings.auto_migrate:
        done = migrate.up(engine, settings.migration_lock_timeout_s)
    else:
        migrate.require_current(engine)
        done = []
    fault = check_key_ring(engine, KeyRing.from_settings(settings))
    if fault is not None:
        raise KeyRingFault(fault)
    if settings.encryption_key is not None:
        _warn_of_plain_keys(engine)
    return done


def _warn_of_plain_keys(engine: Engine) -> None:
    """Encryption that was turned on seals what is written from now on, and nothing else by itself."""
    with read_transaction(engine) as connection:
        plain = text("SELECT count(*) FROM projects WHERE api_key <> '' AND api_key NOT LIKE 'enc:%'")
        number = connection.execute(plain).scalar_one()
    if number:
        _LOG.warning("%s provider keys are stored in clear: run llm-proxy migrate encrypt", number)
