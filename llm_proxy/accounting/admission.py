"""Quota by one conditional UPDATE a request for limited tokens; counts written behind for unlimited ones.

The rule (data-plane §9): a request is charged one unit when the proxy starts sending it to the provider, and the unit
is returned only if no byte of it could be sent.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, Protocol

import gevent

from llm_proxy.db.bare import BareStatements
from llm_proxy.db.errors import is_unavailable
from llm_proxy.db.types import from_column, utc_now
from llm_proxy.errors import QuotaExhausted, ServiceUnavailable, TokenExpired, TokenInactive, TokenNotFound

_LOG = logging.getLogger(__name__)

BEAT_S = 0.4  # accounting.md §4
_BATCH = 200  # rows in one transaction; longer ones would stop other writers of SQLite (MP-90)
_CLOSE_LIMIT_S = 5.0

_LATER = "last_used_at = CASE WHEN last_used_at IS NULL OR last_used_at < ? THEN ? ELSE last_used_at END"
_TAKE = f"""\
UPDATE tokens SET request_count = request_count + 1, lease_version = lease_version + 1, {_LATER}
 WHERE id = ? AND is_active AND (expires_at IS NULL OR expires_at >= ?)
 AND (max_requests IS NULL OR max_requests = 0 OR request_count < max_requests)"""  # noqa: S608
_REFUND = "UPDATE tokens SET request_count = request_count - 1, lease_version = lease_version + 1 WHERE id = ?"
_REASON = "SELECT is_active, expires_at, max_requests, request_count FROM tokens WHERE id = ?"
_FLUSH = f"""\
UPDATE tokens SET request_count = request_count + ?, cache_hit_count = cache_hit_count + ?,
 lease_version = lease_version + 1, {_LATER} WHERE id = ?"""  # noqa: S608
_FLUSH_HITS = "UPDATE tokens SET cache_hit_count = cache_hit_count + ? WHERE id = ?"  # the one that MP-86a exempts


class Accountable(Protocol):
    """What admission needs of a token; `max_requests` None = unlimited."""

    @property
    def id(self) -> str:
        """The row's id."""

    @property
    def max_requests(self) -> int | None:
        """The limit, as the caller knows it."""

    @property
    def request_count(self) -> int:
        """What was counted, as the caller knows it."""


class Unit:
    """One request's charge. Sent or refunded once; the later call does nothing."""

    __slots__ = ("is_limited", "is_open", "token_id")

    def __init__(self, token_id: str, *, is_limited: bool) -> None:
        self.token_id, self.is_limited, self.is_open = token_id, is_limited, True


class Admission(Protocol):
    """The seam to the pipeline; every implementation counts exactly."""

    def peek(self, token: Accountable) -> None:
        """Raises QuotaExhausted when the quota is known to be used up; charges nothing."""

    def take(self, token: Accountable) -> Unit:
        """Charge one unit. Raises QuotaExhausted, TokenInactive, TokenExpired, TokenNotFound, ServiceUnavailable."""

    def sent(self, unit: Unit) -> None:
        """The first byte is on its way: the unit is spent for good."""

    def refund(self, unit: Unit) -> None:
        """No byte was sent: the unit comes back. Does nothing after `sent`. Never raises."""

    def touch(self, token: Accountable) -> None:
        """The token was used without a charge: moves `last_used_at` alone."""

    def hit(self, token: Accountable) -> None:
        """Answered from the cache: `cache_hit_count` and `last_used_at`."""

    def start(self) -> None:
        """Begin to write behind, in a greenlet of this worker."""

    def beat(self) -> None:
        """Write what is pending. Never raises."""

    def close(self) -> None:
        """Write what is pending for the last time."""


class _Pending:
    """What has to be added to a row."""

    __slots__ = ("hits", "requests", "used_at")

    def __init__(self) -> None:
        self.requests, self.hits = 0, 0
        self.used_at: datetime | None = None

    def add(self, requests: int, hits: int, used_at: datetime | None) -> None:
        self.requests += requests
        self.hits += hits
        if used_at is not None and (self.used_at is None or used_at > self.used_at):
            self.used_at = used_at


class ConditionalAdmission:
    """The database's row is the arbiter of each unit of a limited token.

    Args:
        early_at: Tokens with something pending before a flush that does not wait for the beat (DP-128).
        flush_failed: Called for each failed flush, for a counter.
        now: The present instant.
    """

    def __init__(
        self,
        statements: BareStatements,
        *,
        early_at: int = 1000,
        flush_failed: Callable[[], None] = lambda: None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._statements, self._early_at, self._flush_failed, self._now = statements, early_at, flush_failed, now
        self._pending: dict[str, _Pending] = {}
        self._wake = threading.Event()
        self._beats: gevent.Greenlet | None = None
        self._is_closing = False
        self._lock = threading.Lock()  # one flush at a time

    def peek(self, token: Accountable) -> None:
        """See `Admission`. From what the caller knows: no statement."""
        if token.max_requests is not None and token.request_count >= token.max_requests:
            raise QuotaExhausted

    def take(self, token: Accountable) -> Unit:
        """See `Admission`."""
        if token.max_requests is None:
            self._note(token.id, requests=1)
            return Unit(token.id, is_limited=False)
        now = self._statements.time(self._now())
        if self._asking(lambda: self._statements.write(_TAKE, (now, now, token.id, now))) == 1:
            return Unit(token.id, is_limited=True)
        raise self._reason(token.id)

    def sent(self, unit: Unit) -> None:
        """See `Admission`."""
        unit.is_open = False

    def refund(self, unit: Unit) -> None:
        """See `Admission`."""
        if not unit.is_open:
            return
        unit.is_open = False
        if unit.is_limited:
            try:
                self._statements.write(_REFUND, (unit.token_id,))
                return
            except Exception as error:
                _LOG.warning("refund is written later: %s", type(error).__name__)
        self._note(unit.token_id, requests=-1, is_use=False)

    def touch(self, token: Accountable) -> None:
        """See `Admission`."""
        self._note(token.id)

    def hit(self, token: Accountable) -> None:
        """See `Admission`."""
        self._note(token.id, hits=1)

    def start(self) -> None:
        """See `Admission`."""
        if self._beats is None:
            self._beats = gevent.spawn(self._run)

    def beat(self) -> None:
        """See `Admission`."""
        self._flush()

    def close(self) -> None:
        """See `Admission`. Tries for at most 5 seconds; what cannot be written then is named in the log."""
        self._is_closing = True
        self._wake.set()
        if self._beats is not None:
            self._beats.join(timeout=_CLOSE_LIMIT_S)
        until = time.monotonic() + _CLOSE_LIMIT_S
        while not self._flush() and time.monotonic() < until:
            time.sleep(0.1)
        if self._pending:
            lost = sum(pending.requests for pending in self._pending.values())
            _LOG.error("counts of %d tokens (%d requests) could not be written", len(self._pending), lost)
        self._statements.close()

    def _note(self, token_id: str, *, requests: int = 0, hits: int = 0, is_use: bool = True) -> None:
        pending = self._pending.get(token_id)
        if pending is None:
            pending = self._pending[token_id] = _Pending()
            if len(self._pending) >= self._early_at:
                self._wake.set()
        pending.add(requests, hits, self._now() if is_use else None)

    def _run(self) -> None:
        while not self._is_closing:
            self._wake.wait(BEAT_S * random.uniform(0.9, 1.1))  # noqa: S311  (workers should not beat in step)
            self._wake.clear()
            self._flush()

    def _flush(self) -> bool:
        """Write all that is pending; what could not be written stays. Returns whether all was."""
        with self._lock:
            taken, self._pending = self._pending, {}
            left = sorted(taken)  # in one order everywhere: two workers cannot deadlock
            try:
                while left:
                    self._statements.batch([self._statement(id_, taken[id_]) for id_ in left[:_BATCH]])
                    del left[:_BATCH]
            except Exception as error:
                _LOG.warning(
                    "counts could not be written, they are kept: %s", type(error).__name__,
                    exc_info=not is_unavailable(error),
                )  # fmt: skip
                self._flush_failed()
            for id_ in left:
                kept = taken[id_]
                self._pending.setdefault(id_, _Pending()).add(kept.requests, kept.hits, kept.used_at)
            return not left

    def _statement(self, token_id: str, pending: _Pending) -> tuple[str, tuple[Any, ...]]:
        if pending.used_at is None and not pending.requests:
            return _FLUSH_HITS, (pending.hits, token_id)
        used_at = None if pending.used_at is None else self._statements.time(pending.used_at)
        return _FLUSH, (pending.requests, pending.hits, used_at, used_at, token_id)

    def _reason(self, token_id: str) -> Exception:
        """Why the UPDATE found no row; read again, because the caller's facts may be a second old."""
        rows = self._asking(lambda: self._statements.read(_REASON, (token_id,)))
        if not rows:
            return TokenNotFound()
        is_active, expires_at, _, _ = rows[0]
        expires_at = from_column(expires_at)
        if not is_active:
            return TokenInactive()
        if expires_at is not None and self._now() > expires_at:
            return TokenExpired()
        return QuotaExhausted()

    @staticmethod
    def _asking(ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except Exception as error:
            _LOG.warning("quota statement failed: %s", type(error).__name__, exc_info=not is_unavailable(error))
            raise ServiceUnavailable from error
