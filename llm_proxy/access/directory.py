"""From a management key presented to the key as it is: one read, remembered for half a second.

A key in use therefore costs no read a request, and every worker of every replica knows within a second that a key was
revoked, narrowed or rolled.
"""

import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine, or_, select, update

from llm_proxy.access.key import Key
from llm_proxy.access.secret import is_well_formed, stored
from llm_proxy.db.errors import is_unavailable
from llm_proxy.db.models import ManagementKeyRow
from llm_proxy.db.session import read_transaction, write_transaction
from llm_proxy.errors import DatabaseUnavailable, Unauthorized
from llm_proxy.runtime.clock import utc_now

_LOG = logging.getLogger(__name__)
_TABLE = ManagementKeyRow.__table__.c

FRESH_S = 0.5
USED_EVERY = timedelta(minutes=1)  # how precise `last_used_at` is
_MOST = 10_000


class KeyDirectory:
    """Knows management keys by their secret and by their id.

    Args:
        now: The present instant.
        clock: Monotonic seconds.
    """

    def __init__(
        self, engine: Engine, *, now: Callable[[], datetime] = utc_now, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine, self._now, self._clock = engine, now, clock
        self._known: dict[str, tuple[float, Key]] = {}  # hash of a secret, or id → when its read began, and the key
        self._noted: dict[str, datetime] = {}  # id → when this process wrote its last use
        self._reading = threading.Lock()
        self._changes = 0

    def authenticate(self, secret: str) -> Key:
        """Return the key that this secret opens now.

        Raises:
            Unauthorized: It opens none, or its key has expired.
            DatabaseUnavailable: The database did not answer.
        """
        if not is_well_formed(secret):
            raise Unauthorized("invalid management key: its checksum does not match; it may be mistyped")
        secret_hash = stored(secret)
        key = self._find(secret_hash, or_(_TABLE.secret_hash == secret_hash, _TABLE.previous_hash == secret_hash))
        if key is None or not key.opens_with(secret_hash, self._now()):
            raise Unauthorized("invalid management token")
        if key.is_expired(self._now()):
            raise Unauthorized("management key has expired", code="key_expired")
        self._note_use(key)
        return key

    def by_id(self, key_id: str) -> Key | None:
        """Return the key with this id, None when it is gone. Raises DatabaseUnavailable."""
        return self._find(key_id, _TABLE.id == key_id)

    def forget(self) -> None:
        """Read again at the next use: something was changed in this process."""
        self._changes += 1
        self._known.clear()

    def _find(self, name: str, clause: Any) -> Key | None:
        known = self._fresh(name)
        if known is not None:
            return known
        with self._reading:  # others that wait for the same read take what it found
            return self._fresh(name) or self._read(name, clause)

    def _fresh(self, name: str) -> Key | None:
        known = self._known.get(name)
        return known[1] if known is not None and self._clock() - known[0] < FRESH_S else None

    def _read(self, name: str, clause: Any) -> Key | None:
        started, changes = self._clock(), self._changes
        self._known.pop(name, None)
        try:
            with read_transaction(self._engine) as connection:
                row = connection.execute(select(ManagementKeyRow.__table__).where(clause)).mappings().first()
        except Exception as error:
            if not is_unavailable(error):
                raise
            _LOG.warning("management keys cannot be read: the database is unavailable: %s", type(error).__name__)
            raise DatabaseUnavailable from error
        if row is None:
            return None
        key = Key.from_row(row)
        if changes == self._changes:
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[name] = (started, key)
        return key

    def _note_use(self, key: Key) -> None:
        """Write `last_used_at`, at most once a minute; a failure is no reason to refuse the call."""
        now, noted_at = self._now(), self._noted.get(key.id)
        is_recent = key.last_used_at is not None and now - key.last_used_at < USED_EVERY
        if is_recent or (noted_at is not None and now - noted_at < USED_EVERY):
            return
        if len(self._noted) >= _MOST:
            self._noted.clear()
        self._noted[key.id] = now
        before = or_(_TABLE.last_used_at.is_(None), _TABLE.last_used_at < now - USED_EVERY)
        try:
            with write_transaction(self._engine) as connection:
                connection.execute(update(ManagementKeyRow).where(_TABLE.id == key.id, before).values(last_used_at=now))
        except Exception as error:
            _LOG.warning("last use of management key %s was not written: %s", key.id, type(error).__name__)
