"""Sign-ins at an OpenID provider that are under way: each is used once, by the browser that began it.

In the database, any replica finishes what another one began; in memory, the one process of an admin UI does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from sqlalchemy import Engine, delete, func, insert, select

from llm_proxy.crypto import digest, equal
from llm_proxy.db import pagination
from llm_proxy.db.clock import Clock, database_now
from llm_proxy.db.models import SignInRow
from llm_proxy.db.session import write_transaction
from llm_proxy.errors import ManagementError
from llm_proxy.runtime.clock import utc_now

SIGN_IN_LASTS: Final = timedelta(minutes=10)
MOST_SIGN_INS: Final = 10_000  # in progress at once: any visitor can begin one
_TABLE: Any = SignInRow.__table__.c


class SignInRefused(ManagementError):
    """403: the sign-in was not begun here, or what came back for it is not good."""

    status, type, message = 403, "permission_error", "the sign-in was refused"


@dataclass(frozen=True, slots=True)
class Flow:
    """What the way back needs."""

    nonce: str  # that the ID token must hold
    code_verifier: str  # RFC 7636
    return_to: str


class Flows(Protocol):
    """Keeps sign-ins under way."""

    def remember(self, state: str, browser_secret: str, flow: Flow) -> None:
        """Keep one for ten minutes. Raises SignInRefused where there are too many."""

    def take(self, state: str, browser_secret: str | None) -> Flow:
        """Return the one of this state and browser, and forget it. Raises SignInRefused."""


class DatabaseFlows:
    """In the database.

    Args:
        now: The present instant, given a connection.
    """

    def __init__(self, engine: Engine, now: Clock = database_now) -> None:
        self._engine, self._now = engine, now

    def remember(self, state: str, browser_secret: str, flow: Flow) -> None:
        """See Flows."""
        with write_transaction(self._engine) as connection:
            now = self._now(connection)
            connection.execute(delete(SignInRow).where(_TABLE.expires_at <= now))
            _require_room(connection.execute(select(func.count()).select_from(SignInRow)).scalar_one())
            row = {
                "state_hash": digest(state),
                "browser_hash": digest(browser_secret),
                "nonce": flow.nonce,
                "code_verifier": flow.code_verifier,
                "return_to": flow.return_to,
                "expires_at": now + SIGN_IN_LASTS,
            }
            connection.execute(insert(SignInRow), row)

    def take(self, state: str, browser_secret: str | None) -> Flow:
        """See Flows."""
        with write_transaction(self._engine) as connection:
            query = select(SignInRow.__table__).where(pagination.equals(_TABLE.state_hash, digest(state)))
            row = connection.execute(query.with_for_update()).mappings().one_or_none()
            is_late = row is None or row["expires_at"] <= self._now(connection)
            _require_same(None if row is None or is_late else row["browser_hash"], browser_secret)
            assert row is not None
            connection.execute(delete(SignInRow).where(_TABLE.state_hash == row["state_hash"]))
        return Flow(row["nonce"], row["code_verifier"], row["return_to"])


class MemoryFlows:
    """In the memory of one process."""

    def __init__(self, now: Callable[[], datetime] = utc_now) -> None:
        self._now = now
        self._kept: dict[str, tuple[str, Flow, datetime]] = {}

    def remember(self, state: str, browser_secret: str, flow: Flow) -> None:
        """See Flows."""
        now = self._now()
        self._kept = {key: kept for key, kept in self._kept.items() if kept[2] > now}
        _require_room(len(self._kept))
        self._kept[digest(state)] = digest(browser_secret), flow, now + SIGN_IN_LASTS

    def take(self, state: str, browser_secret: str | None) -> Flow:
        """See Flows."""
        kept = self._kept.get(digest(state))
        is_late = kept is None or kept[2] <= self._now()
        _require_same(None if kept is None or is_late else kept[0], browser_secret)
        return self._kept.pop(digest(state))[1]


def _require_room(count: int) -> None:
    if count >= MOST_SIGN_INS:
        raise SignInRefused("too many sign-ins are under way; try again in a few minutes")


def _require_same(browser_hash: str | None, browser_secret: str | None) -> None:
    if browser_hash is None:
        raise SignInRefused("this sign-in was not begun here, was used before, or took longer than 10 minutes")
    if browser_secret is None or not equal(digest(browser_secret), browser_hash):
        raise SignInRefused("this sign-in was begun in another browser")
