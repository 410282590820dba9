"""What a request needs to know about its token and project, read in one go."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from llm_proxy.errors import TokenExpired, TokenIdleExpired, TokenInactive


@dataclass(frozen=True, slots=True)
class ProjectFacts:
    """A project as requests see it. `api_key` is the provider's key in clear, None when there is none that opens."""

    id: str
    is_active: bool
    api_key: str | None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_cost_nano_usd_per_month: int | None = None
    event_privacy: str = "full"

    def __repr__(self) -> str:  # never a key in a log or a traceback
        return f"ProjectFacts(id={self.id!r}, is_active={self.is_active})"


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """A token as requests see it, at most a second old. `hint` may be shown; the bearer is not kept.

    Attributes:
        leases: Who holds units of it, as accounting writes it down.
        read_at: Monotonic seconds, from before the read.
        database_s: What the database's clock showed in the read, in seconds since 1970; 0 = not read from one.
    """

    id: str
    hint: str
    project_id: str
    is_active: bool
    expires_at: datetime | None
    max_requests: int | None
    request_count: int
    project: ProjectFacts
    created_at: datetime | None = None
    last_used_at: datetime | None = None
    lease_version: int = 0
    idle_timeout_minutes: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_total_tokens: int | None = None
    max_cost_nano_usd: int | None = None
    total_tokens: int = 0
    total_cost_nano_usd: int = 0
    leases: str | None = None
    read_at: float = 0.0
    database_s: float = 0.0

    def require_usable(self, now: datetime) -> None:
        """Raises TokenInactive, TokenExpired or TokenIdleExpired; the last instant itself is still good (DP-50).

        A token that was never used is unused since its creation. What idles to death stays dead: refusals are no use.
        """
        if not self.is_active:
            raise TokenInactive
        if self.expires_at is not None and now > self.expires_at:
            raise TokenExpired
        if self.idle_timeout_minutes is not None:
            since = self.last_used_at or self.created_at
            if since is not None and now > since + timedelta(minutes=self.idle_timeout_minutes):
                raise TokenIdleExpired
