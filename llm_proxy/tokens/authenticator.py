"""From the bearer presented to the facts about its token: one read, remembered for less than a second.

Tokens in use are read again by accounting's sync, many in one statement (`refresh`), so that their requests find facts
that are fresh and ask for none.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any

from llm_proxy.crypto import KeyRing, UnopenableValue, digest
from llm_proxy.db.clock import DATABASE_S
from llm_proxy.db.errors import is_unavailable
from llm_proxy.db.health import DatabaseHealth
from llm_proxy.db.raw import RawConnectionPool
from llm_proxy.db.types import from_column
from llm_proxy.errors import InvalidToken, ServiceUnavailable, TokenNotFound
from llm_proxy.model.fields import enforced, from_columns
from llm_proxy.model.project import PROJECT_FIELDS, ProjectSnapshot
from llm_proxy.model.token import TokenSnapshot
from llm_proxy.model.token_fields import TOKEN_FIELDS
from llm_proxy.runtime.clock import utc_now
from llm_proxy.settings import Settings
from llm_proxy.tokens.bearer import hint, is_well_formed

_LOG = logging.getLogger(__name__)

FRESH_S = 0.9  # at most 1 s may pass from a change to the last request that does not know it
_WAIT_S = 5.0  # for the same read begun by another request

_TOKEN_FIELDS, _PROJECT_FIELDS = enforced(TOKEN_FIELDS), enforced(PROJECT_FIELDS)
_FIXED = {  # name in a `Row` → expression
    "key": "t.token",
    **{name: f"t.{name}" for name in ("id", "token_hint", "project_id", "is_active", "expires_at", "request_count")},
    **{name: f"t.{name}" for name in ("created_at", "last_used_at", "lease_version", "leases")},
    **{name: f"t.{name}" for name in ("total_tokens", "total_cost_nano_usd")},
    "database_s": "",  # in each database's own words
    **{f"project.{name}": f"p.{name}" for name in ("id", "is_active", "api_key")},
}
_COLUMNS = {
    **_FIXED,
    **{field.attribute: f"t.{field.attribute}" for field in _TOKEN_FIELDS},
    **{f"project.{field.attribute}": f"p.{field.attribute}" for field in _PROJECT_FIELDS},
}
_SELECT = "SELECT {columns} FROM tokens t LEFT JOIN projects p ON p.id = t.project_id WHERE "
Row = dict[str, Any]  # a column's value by the name in `_COLUMNS`
_SELECT_KEYS = "SELECT project_id, id, provider, api_key FROM project_keys WHERE project_id IN "
ProviderKeys = dict[str, dict[str, str | None]]  # project id → provider → key
_MOST_AT_ONCE = 500  # ids in one statement
_HASH_IT = "UPDATE tokens SET token = ?, token_hint = ?, lease_version = lease_version + 1 WHERE id = ? AND token = ?"


class _Read:
    """A read that is under way; other requests that need the same wait for it."""

    __slots__ = ("done", "error", "facts")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.facts: TokenSnapshot | None = None
        self.error: Exception | None = None


class TokenAuthenticator:
    """Knows tokens by their bearer.

    What was found is remembered for `remember_s`, counted from before the read; refusals are not remembered. Bearers
    are not kept: the key is their hash.

    Args:
        remember_s: 0 = a read for every request.
        grace_s: For so long more, what is known of unlimited tokens is good while the database does not answer
            (DATABASE_OUTAGE_GRACE).
        health: What is known of the database; the facts' clock is its.
        most: Tokens remembered; the oldest goes first.
        clock, now: Monotonic seconds and the present instant.
        has_provider_keys: Read projects' keys for providers beside the default one as well.
    """

    def __init__(
        self,
        statements: RawConnectionPool,
        ring: KeyRing,
        *,
        remember_s: float = FRESH_S,
        grace_s: float = 0.0,
        health: DatabaseHealth | None = None,
        most: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = utc_now,
        has_provider_keys: bool = False,
    ) -> None:
        self._statements, self._ring = statements, ring
        self._remember_s, self._grace_s, self._most = min(remember_s, FRESH_S), grace_s, most
        self._clock, self._now, self._health = clock, now, health or DatabaseHealth(clock)
        self._select = _SELECT.format(
            columns=", ".join({**_COLUMNS, "database_s": DATABASE_S[statements.dialect]}.values())
        )
        self._has_provider_keys = has_provider_keys
        self._opened: dict[tuple[str, str], str | None] = {}  # (project id, sealed key) → key
        self._known: dict[str, tuple[float, TokenSnapshot]] = {}
        self._digests: dict[str, str] = {}  # token id → key of _known
        self._reads: dict[str, _Read] = {}
        self._changes = 0

    @classmethod
    def from_settings(
        cls, statements: RawConnectionPool, ring: KeyRing, settings: Settings, health: DatabaseHealth
    ) -> "TokenAuthenticator":
        """As the settings say: facts come in one read, so the shortest of the three times applies."""
        return cls(
            statements,
            ring,
            remember_s=min(
                settings.tokens.cache_ttl_s, settings.tokens.active_cache_ttl_s, settings.tokens.api_key_cache_ttl_s
            ),
            grace_s=settings.storage.outage_grace_s,
            health=health,
            most=min(settings.tokens.active_cache_max, settings.tokens.api_key_cache_max),
            now=health.now,
            has_provider_keys=bool(settings.upstream.providers),
        )

    def authenticate(self, bearer: str) -> TokenSnapshot:
        """Return the facts of a token that is active and has not expired. The caller judges its project and quota.

        Raises:
            InvalidToken: It cannot be a token; no database was asked.
            TokenNotFound, TokenInactive, TokenExpired: In this order.
            ServiceUnavailable: The database did not answer.
        """
        if not is_well_formed(bearer):
            raise InvalidToken(description="invalid token format")
        key = digest(bearer)
        known = self._known.get(key)
        is_fresh = known is not None and self._clock() - known[0] < self._remember_s
        facts = known[1] if known is not None and is_fresh else self._ask(key, bearer)
        facts.require_alive(self._now())
        return facts

    def refresh(
        self, token_ids: Sequence[str], statements: RawConnectionPool | None = None
    ) -> dict[str, TokenSnapshot]:
        """Read tokens again, those that are remembered for the requests to come too. Raises the driver's errors.

        Returns:
            Facts by id; what is not there, is gone.
        """
        found: dict[str, TokenSnapshot] = {}
        for start in range(0, len(token_ids), _MOST_AT_ONCE):
            ids = token_ids[start : start + _MOST_AT_ONCE]
            marks = ", ".join("?" * len(ids))
            sent_at, changes = self._clock(), self._changes
            rows = self._rows(f"t.id IN ({marks})", ids, statements or self._statements)
            keys = self._provider_keys({row["project_id"] for row in rows}, statements or self._statements)
            for row in rows:
                facts = self._facts(row, row["token_hint"], sent_at, keys)
                found[facts.id] = facts
                key = self._digests.get(facts.id)
                if key is not None and key == row["key"] and changes == self._changes:
                    self._known[key] = (sent_at, facts)
        return found

    def forget(self, token_id: str) -> None:
        """Something about this token has changed in this process: the next request reads again."""
        self._changes += 1
        key = self._digests.pop(token_id, None)
        if key is not None:
            self._known.pop(key, None)

    def forget_project(self, project_id: str) -> None:
        """Forget all tokens of a project."""
        self._changes += 1
        for key, (_, facts) in list(self._known.items()):
            if facts.project_id == project_id:
                self._known.pop(key, None)
                self._digests.pop(facts.id, None)

    def close(self) -> None:
        """Close the connections."""
        self._statements.close()

    def _ask(self, key: str, bearer: str) -> TokenSnapshot:
        try:
            if self._health.is_down:
                raise ServiceUnavailable
            return self._look_up(key, bearer)
        except ServiceUnavailable:
            known = self._known.get(key)
            if known is None or known[1].max_requests is not None:
                raise
            if self._clock() - known[0] >= self._remember_s + self._grace_s:
                raise
            return known[1]

    def _look_up(self, key: str, bearer: str) -> TokenSnapshot:
        if self._remember_s <= 0:
            return self._read(key, bearer)
        under_way = self._reads.get(key)
        if under_way is not None and under_way.done.wait(_WAIT_S):
            if under_way.error is not None:
                raise under_way.error
            if under_way.facts is not None:
                return under_way.facts
        mine = self._reads[key] = _Read()
        try:
            mine.facts = self._read(key, bearer)
            return mine.facts
        except Exception as error:
            mine.error = error
            raise
        finally:
            if self._reads.get(key) is mine:
                del self._reads[key]
            mine.done.set()

    def _read(self, key: str, bearer: str) -> TokenSnapshot:
        started, changes = self._clock(), self._changes
        try:
            rows = self._rows("t.token IN (?, ?)", (key, bearer), self._statements)
            keys = self._provider_keys({row["project_id"] for row in rows}, self._statements)
        except Exception as error:
            _LOG.warning("token look-up failed: %s", type(error).__name__, exc_info=not is_unavailable(error))
            raise ServiceUnavailable from error
        row = next((row for row in rows if row["key"] == key), rows[0] if rows else None)
        if row is None:
            raise TokenNotFound
        facts = self._facts(row, hint(bearer), started, keys)
        if row["key"] != key:
            self._hash(facts, key, bearer)
        if facts.is_active and self._remember_s > 0 and changes == self._changes:
            self._remember(key, started, facts)
        return facts

    def _rows(self, condition: str, parameters: Sequence[str], statements: RawConnectionPool) -> list[Row]:
        return [dict(zip(_COLUMNS, row, strict=True)) for row in statements.read(self._select + condition, parameters)]

    def _remember(self, key: str, started: float, facts: TokenSnapshot) -> None:
        self._known.pop(key, None)
        while len(self._known) >= self._most:
            _, oldest = self._known.pop(next(iter(self._known)))
            self._digests.pop(oldest.id, None)
        self._known[key] = (started, facts)
        self._digests[facts.id] = key

    def _provider_keys(self, project_ids: Collection[str], statements: RawConnectionPool) -> ProviderKeys:
        """Return the keys of projects for providers beside the default one, in clear.

        None for one that does not open.
        """
        found: ProviderKeys = {}
        if self._has_provider_keys and project_ids:
            marks = ", ".join("?" * len(project_ids))
            for project_id, key_id, provider, stored in statements.read(f"{_SELECT_KEYS}({marks})", tuple(project_ids)):
                found.setdefault(project_id, {})[provider] = self._open(stored, project_id, key_id)
        return found

    def _facts(self, row: Row, shown: str, sent_at: float, keys: ProviderKeys) -> TokenSnapshot:
        database_s, project_id = float(row["database_s"]), row["project_id"]
        created_at: str | datetime = row["created_at"]
        self._health.learn(database_s, sent_at)
        return TokenSnapshot(
            id=row["id"],
            hint=row["token_hint"] or shown,
            project_id=project_id,
            is_active=bool(row["is_active"]),
            expires_at=from_column(row["expires_at"]),
            request_count=row["request_count"],
            project=self._project(row, keys.get(project_id, {})),
            created_at=from_column(created_at),
            last_used_at=from_column(row["last_used_at"]),
            lease_version=row["lease_version"],
            total_tokens=row["total_tokens"],
            total_cost_nano_usd=row["total_cost_nano_usd"],
            leases=row["leases"],
            read_at=sent_at,
            database_s=database_s,
            **from_columns(_TOKEN_FIELDS, row),
        )

    def _project(self, row: Row, keys: dict[str, str | None]) -> ProjectSnapshot:
        project_id = row["project_id"]
        if row["project.id"] is None:
            return ProjectSnapshot(project_id, is_active=False, api_key=None)
        return ProjectSnapshot(
            project_id,
            is_active=bool(row["project.is_active"]),
            api_key=self._open(row["project.api_key"], project_id),
            provider_keys=keys,
            **{field.attribute: field.kind.loaded(row[f"project.{field.attribute}"]) for field in _PROJECT_FIELDS},
        )

    def _open(self, stored: str, project_id: str, row_id: str | None = None) -> str | None:
        """Return the provider key in clear; opened once, and again when it was replaced.

        `row_id`: the row that it is tied to, where that is not the project's.
        """
        known = self._opened.get((project_id, stored))
        if known is not None:
            return known
        try:
            api_key = self._ring.open(stored, row_id or project_id)
        except UnopenableValue as error:
            _LOG.error("provider key of project %s cannot be opened: %s", project_id, error)
            return None
        while len(self._opened) >= self._most:
            del self._opened[next(iter(self._opened))]
        self._opened[project_id, stored] = api_key
        return api_key

    def _hash(self, facts: TokenSnapshot, key: str, bearer: str) -> None:
        """Hash a row that holds its bearer in clear, from an import, at its first use."""
        try:
            self._statements.write(_HASH_IT, (key, facts.hint, facts.id, bearer))
        except Exception as error:
            _LOG.warning("token %s could not be hashed, the next use tries again: %s", facts.id, type(error).__name__)
