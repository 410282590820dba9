"""Is the database there, and migrated? Asked by /ready."""

import logging
import time
from collections.abc import Callable
from weakref import WeakKeyDictionary

import gevent
from sqlalchemy import Engine

from llm_proxy.db import migrate
from llm_proxy.db.connector import is_cooperative
from llm_proxy.db.errors import MigrationError
from llm_proxy.db.session import read_transaction

_LOG = logging.getLogger(__name__)

LIMIT_S = 1.0
FRESH_S = 2.0
_TRIES, _RETRY_WITHIN_S = 5, 0.5  # what fails at once is tried again: one broken connection is no outage

_KNOWN: WeakKeyDictionary[Engine, tuple[float, str | None]] = WeakKeyDictionary()


def readiness(engine: Engine, meets: Callable[[], None] = lambda: None) -> str | None:
    """Return None when the database answers and has this program's schema; else the check that fails.

    `database` or `migrations`. A probe that failed is repeated on a new connection before it counts: once, and up to
    four times where it fails within moments. Takes at most two seconds under gevent, and asks at most every two
    seconds, a running question included. Never raises.

    Args:
        meets: Does what requests do with the database, within their bounds; raises when they would fail.
    """
    now = time.monotonic()
    asked_at, found = _KNOWN.get(engine, (-FRESH_S, None))
    if now - asked_at < FRESH_S:
        return found
    _KNOWN[engine] = (now, found)  # callers meanwhile get the last result
    found = _ask(engine, meets)
    for tried in range(1, _TRIES):
        if found != "database" or (tried > 1 and time.monotonic() - now > _RETRY_WITHIN_S):
            break
        found = _ask(engine, meets)
    _KNOWN[engine] = (now, found)
    return found


def forget(engine: Engine) -> None:
    """Have the next question really asked."""
    _KNOWN.pop(engine, None)


def _ask(engine: Engine, meets: Callable[[], None]) -> str | None:
    timeout = gevent.Timeout(LIMIT_S) if is_cooperative() else None
    try:
        if timeout is not None:
            timeout.start()
        with read_transaction(engine) as connection:
            if migrate.version(connection) != migrate.head():
                return "migrations"
        meets()
        return None
    except MigrationError:
        return "migrations"
    except gevent.Timeout as expired:
        if expired is not timeout:
            raise
        return "database"
    except Exception as error:
        _LOG.warning("database is not ready: %s", type(error).__name__)
        return "database"
    finally:
        if timeout is not None:
            timeout.close()
