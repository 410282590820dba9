"""What a start does with the database before anything is served (MP-103, MP-107)."""

from sqlalchemy import Engine

from llm_proxy.crypto import KeyRing, check_key_ring
from llm_proxy.db import migrate
from llm_proxy.db.errors import DatabaseFault
from llm_proxy.settings import Settings


class KeyRingFault(DatabaseFault):
    """Rows are sealed under a key that this start does not have (data-plane decision 14)."""


def prepare(engine: Engine, settings: Settings) -> list[str]:
    """Migrate, or see that nothing is pending; then see that every sealed row has its key. Returns what was migrated.

    Raises:
        DatabaseFault: The start must stop; the message is the one line to say. Nothing was changed, unless it was
            the migration itself that failed.
    """
    if settings.auto_migrate:
        done = migrate.up(engine, settings.migration_lock_timeout_s)
    else:
        migrate.require_current(engine)
        done = []
    fault = check_key_ring(engine, KeyRing.of(settings))
    if fault is not None:
        raise KeyRingFault(fault)
    return done
