"""Which windows apply to a request, and what happens while Redis is unavailable."""

import hashlib
import hmac
import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from llm_proxy.errors import RateLimitExceeded, ServiceUnavailable
from llm_proxy.limits.window import Count, Store, Verdict, Window, retry_after_s, used
from llm_proxy.model.addresses import counted_as
from llm_proxy.model.token import TokenSnapshot
from llm_proxy.redisclient import unreachable
from llm_proxy.settings import LimitSettings

PROBE_S = 5.0
UNREADY_S = 10.0
_READY_PROBE_S = 2.0
MINUTE_S = 60
_DEFAULT_MAX = 60
_log = logging.getLogger(__name__)


class Shared(Store, Protocol):
    """A store that may be unavailable."""

    def ping(self) -> None:
        """Raise redisclient.unreachable()."""

    def close(self) -> None:
        """Close the connections."""


class RateLimiter:
    """Steps 8 and 12 of the pipeline. A request that is refused fills none of the windows of its step.

    Args:
        machine: Counts of this machine.
        shared: Counts of all replicas; None: DISTRIBUTED_RATE_LIMIT_ENABLED is off.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        settings: LimitSettings,
        machine: Store,
        shared: Shared | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._machine, self._shared, self._clock = machine, shared, clock
        self._ip, self._global = settings.ip_rate_limit, settings.global_rate_limit
        secret = settings.distributed_key_secret
        self._secret = secret.encode() if secret else None
        self._falls_back = settings.distributed_fallback
        most = settings.distributed_max
        self._token_max = most if most is not None else _DEFAULT_MAX if shared is not None else 0
        self._token_window_s = max(1, round(settings.distributed_window_s))
        self._down_until = 0.0
        self._down_since: float | None = None
        self._looked_at = float("-inf")

    @property
    def is_in_fallback(self) -> bool:
        """Whether Redis is unavailable and this machine's own counts are used."""
        return self._down_since is not None and self._falls_back

    def admit_address(self, address: str | None) -> None:
        """Step 8: the client's address, then all clients. Raises RateLimitExceeded, ServiceUnavailable."""
        if not self._ip and not self._global:
            return
        windows = []
        if self._ip and address:
            windows.append(Window(f"ip:{counted_as(address)}", self._ip, MINUTE_S, "client"))
        if self._global:
            windows.append(Window("global", self._global, MINUTE_S, "global"))
        if windows:
            self._admit(windows)

    def admit_token(self, token: TokenSnapshot, bearer: str) -> None:
        """Step 12: the token's windows, then its project's. Raises RateLimitExceeded, ServiceUnavailable."""
        project = token.project
        if (
            not self._token_max
            and token.requests_per_minute is None
            and token.tokens_per_minute is None
            and project.requests_per_minute is None
            and project.tokens_per_minute is None
        ):
            return
        windows = []
        key = self._key(token, bearer)
        if token.requests_per_minute is not None:
            windows.append(Window(key, token.requests_per_minute, MINUTE_S, "token"))
        elif self._token_max:
            windows.append(Window(key, self._token_max, self._token_window_s, "token"))
        if token.tokens_per_minute is not None:
            windows.append(Window(f"tpm:{token.id}", token.tokens_per_minute, MINUTE_S, "token", 0, "tokens"))
        if project.requests_per_minute is not None:
            windows.append(Window(f"project:{project.id}", project.requests_per_minute, MINUTE_S, "project"))
        if project.tokens_per_minute is not None:
            windows.append(Window(f"tpm:{project.id}", project.tokens_per_minute, MINUTE_S, "project", 0, "tokens"))
        self._admit(windows)

    def count_tokens(self, token: TokenSnapshot, tokens: int) -> None:
        """Model tokens that an exchange has used, once they are known. Never raises."""
        project, windows = token.project, []
        if token.tokens_per_minute is not None:
            windows.append(Window(f"tpm:{token.id}", token.tokens_per_minute, MINUTE_S, "token", tokens, "tokens"))
        if project.tokens_per_minute is not None:
            key = f"tpm:{project.id}"
            windows.append(Window(key, project.tokens_per_minute, MINUTE_S, "project", tokens, "tokens"))
        if not windows or tokens <= 0:
            return
        try:
            self._machine.add(windows)
        except OSError as exc:
            _log.warning("model tokens could not be counted: %s", exc.strerror)
        if self._shared is not None and self._may_ask():
            try:
                self._shared.add(windows)
                self._reached()
            except unreachable() as exc:
                self._lost(exc)

    def readiness(self) -> str | None:
        """`redis` once it has been unavailable for 10 s and nothing stands in for it."""
        if self._shared is None or self._falls_back:
            return None
        now = self._clock()
        if now - self._looked_at >= _READY_PROBE_S:
            self._looked_at = now
            try:
                self._shared.ping()
                self._reached()
            except unreachable() as exc:
                self._lost(exc)
        since = self._down_since
        return "redis" if since is not None and now - since >= UNREADY_S else None

    def close(self) -> None:
        """Close the connections."""
        if self._shared is not None:
            self._shared.close()

    def _key(self, token: TokenSnapshot, bearer: str) -> str:
        """Return the row's id, or the bearer under a secret's hash; never the bearer itself."""
        if self._secret is None:
            return token.id
        return hmac.new(self._secret, bearer.encode(), hashlib.sha256).hexdigest()[:16]

    def _admit(self, windows: Sequence[Window]) -> None:
        verdict = self._take(windows)
        if verdict.refused is not None and verdict.found is not None:
            raise refusal(windows[verdict.refused], verdict.found)

    def _take(self, windows: Sequence[Window]) -> Verdict:
        if self._shared is None:
            return self._take_here(windows)
        if self._may_ask():
            try:
                verdict = self._shared.take(windows)
            except unreachable() as exc:
                self._lost(exc)
            else:
                self._reached()
                if verdict.refused is None and self._falls_back:
                    self._note_here(windows)
                return verdict
        if not self._falls_back:
            raise ServiceUnavailable
        return self._take_here(windows)

    def _take_here(self, windows: Sequence[Window]) -> Verdict:
        try:
            return self._machine.take(windows)
        except OSError as exc:  # the folder's disk
            _log.error("limits cannot be counted: %s", exc.strerror)
            raise ServiceUnavailable from exc

    def _note_here(self, windows: Sequence[Window]) -> None:
        """Count here, too, what this machine admits: an outage of Redis must not begin with empty windows."""
        try:
            self._machine.add(windows)
        except OSError as exc:
            _log.warning("limits are not counted on this machine: %s", exc.strerror)

    def _may_ask(self) -> bool:
        """Whether Redis is asked: always while it answers, by one call each 5 s while it does not."""
        if self._down_since is None:
            return True
        now = self._clock()
        if now < self._down_until:
            return False
        self._down_until = now + PROBE_S
        return True

    def _reached(self) -> None:
        if self._down_since is not None:
            self._down_since = None
            _log.info("Redis answers again: limits are shared by all replicas")

    def _lost(self, exc: BaseException) -> None:
        now = self._clock()
        self._down_until = now + PROBE_S
        if self._down_since is None:
            self._down_since = now
            instead = "each machine limits by itself" if self._falls_back else "requests are refused"
            _log.warning("Redis is unavailable (%s): %s", type(exc).__name__, instead)


def refusal(window: Window, count: Count) -> RateLimitExceeded:
    """429 with the fields of draft-ietf-httpapi-ratelimit-headers-10."""
    wait_s = retry_after_s(count, window)
    name = f'"{window.name}"' if window.unit == "requests" else f'"{window.name}-{window.unit}"'
    unit = "" if window.unit == "requests" else f';qu="{window.unit}"'
    error = RateLimitExceeded(description=f"{window.name} rate limit", retry_after_s=wait_s)
    left = max(0, int(window.limit - used(count, window.window_s)))
    error.fields = (
        ("RateLimit-Policy", f"{name};q={window.limit}{unit};w={window.window_s}"),
        ("RateLimit", f"{name};r={left};t={wait_s}"),
    )
    return error
