"""Sessions of an admin UI in its own process: in memory, so that a restart ends them."""

import secrets
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

from llm_proxy.access.sessions import UNKNOWN_BROWSER, Browser, Origin, Session, end_of, is_past
from llm_proxy.crypto import digest
from llm_proxy.runtime.clock import utc_now

MOST = 1_000  # the oldest one ends for one more


Then = Callable[[Any, Session], None]


def _nothing(connection: Any, session: Session) -> None:
    """Write no record."""


class MemorySessions:
    """The store of sessions, with the methods that pages use of the one in the database."""

    def __init__(self, now: Callable[[], datetime] = utc_now) -> None:
        self._now = now
        self._live: dict[str, Session] = {}
        self._id_tokens: dict[str, str] = {}

    def create(
        self,
        origin: Origin,
        browser: Browser = UNKNOWN_BROWSER,
        *,
        remember: bool = False,
        then: Then = _nothing,
    ) -> tuple[str, Session]:
        """Begin a session: what the browser must hold, and the session."""
        secret, now = secrets.token_urlsafe(32), self._now()
        session = Session(
            id=digest(secret),
            caller=origin.caller,
            method=origin.method,
            remember=remember,
            client_ip=browser.client_ip,
            user_agent=browser.user_agent,
            created_at=now,
            last_seen_at=now,
            expires_at=end_of(origin, now, remember=remember),
            fingerprint=origin.fingerprint,
        )
        if browser.replaces:
            self._live.pop(digest(browser.replaces), None)
        while len(self._live) >= MOST:
            del self._live[next(iter(self._live))]
        self._live[session.id] = session
        if origin.id_token is not None:
            self._id_tokens = {key: kept for key, kept in self._id_tokens.items() if key in self._live}
            self._id_tokens[session.id] = origin.id_token
        then(None, session)
        return secret, session

    def load(self, secret: str, *, peer: str | None) -> Session | None:
        """Return the session of what a browser holds; None when there is none any more."""
        session, now = self._live.get(digest(secret)), self._now()
        if session is None:
            return None
        if is_past(session, now):
            del self._live[session.id]
            return None
        session = self._live[session.id] = replace(session, last_seen_at=now)
        return session

    def end(self, secret: str, then: Then = _nothing) -> Session | None:
        """End the session of what a browser holds; what it was, None when there was none."""
        session = self._live.pop(digest(secret), None)
        if session is not None:
            then(None, session)
        return session

    def id_token(self, secret: str) -> str | None:
        """Return the provider's id token of a session that a person began; None for others."""
        return self._id_tokens.get(digest(secret))
