"""Which windows apply, and what happens while Redis is unavailable."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisAway

from llm_proxy.errors import RateLimitExceeded, ServiceUnavailable
from llm_proxy.limits.rate_limiter import RateLimiter
from llm_proxy.limits.window import ADMITTED, Count, Verdict, Window
from llm_proxy.settings import LimitSettings


@dataclass(frozen=True)
class Project:
    """Facts of a project."""

    id: str = "p"
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


@dataclass(frozen=True)
class Token:
    """Facts of a token."""

    id: str = "t"
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    project: Project = field(default_factory=Project)


class Store:
    """Counts without sliding; can be unavailable."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.asked = 0
        self.is_away = False

    def _ask(self) -> None:
        self.asked += 1
        if self.is_away:
            raise RedisAway

    def take(self, windows: Sequence[Window]) -> Verdict:
        """See `window.Store`."""
        self._ask()
        for index, window in enumerate(windows):
            if self.counts.get(window.key, 0) + max(1, window.amount) > window.limit:
                return Verdict(index, Count(self.counts[window.key], 0, 0.0))
        self._add(windows)
        return ADMITTED

    def add(self, windows: Sequence[Window]) -> None:
        """See `window.Store`."""
        self._ask()
        self._add(windows)

    def _add(self, windows: Sequence[Window]) -> None:
        for window in windows:
            self.counts[window.key] = self.counts.get(window.key, 0) + window.amount

    def ping(self) -> None:
        """See `rate_limiter.Shared`."""
        self._ask()

    def close(self) -> None:
        """Nothing is held."""


class Bench:
    """A gate over two stores and a clock."""

    def __init__(self, *, is_shared: bool = True, **values: Any) -> None:
        self.now = 100.0
        self.machine, self.shared = Store(), Store()
        shared = self.shared if is_shared else None
        self.gate = RateLimiter(LimitSettings(**values), self.machine, shared, clock=lambda: self.now)

    def admitted(self, token: Token, number: int) -> int:
        """How many of so many requests get through."""
        done = 0
        for _ in range(number):
            try:
                self.gate.admit_token(token, "sk-bearer")  # type: ignore[arg-type]
            except RateLimitExceeded:
                continue
            done += 1
        return done


def test_without_a_limit_no_store_is_asked() -> None:
    """Off unless set: then no store is touched."""
    bench = Bench(is_shared=False)
    assert bench.admitted(Token(), 5) == 5
    bench.gate.admit_address("192.0.2.1")
    bench.gate.count_tokens(Token(), 500)  # type: ignore[arg-type]
    assert bench.machine.asked == 0


def test_a_tokens_own_limit_replaces_that_of_the_settings() -> None:
    """0.1: also upwards; 60 is the default only where limits are distributed."""
    bench = Bench(is_shared=False, distributed_max=3)
    assert bench.admitted(Token(), 5) == 3
    assert bench.admitted(Token(id="other", requests_per_minute=5), 9) == 5
    assert Bench().admitted(Token(), 70) == 60


def test_a_secret_hides_whose_window_it_is() -> None:
    """The row's id, or 16 hexadecimal digits of an HMAC; never the bearer."""
    bench = Bench(distributed_key_secret="s")
    bench.admitted(Token(), 1)
    (key,) = bench.shared.counts
    assert len(key) == 16
    int(key, 16)


def test_a_token_is_refused_before_its_project_and_fills_nothing() -> None:
    """Precedence of 0.1, and all or none of a step's windows."""
    token = Token(requests_per_minute=2, project=Project(requests_per_minute=2))
    bench = Bench(is_shared=False)
    assert bench.admitted(token, 5) == 2
    with pytest.raises(RateLimitExceeded) as refused:
        bench.gate.admit_token(token, "b")  # type: ignore[arg-type]
    assert refused.value.description == "token rate limit"
    assert bench.machine.counts == {"t": 2, "project:p": 2}
    with pytest.raises(RateLimitExceeded) as refused:
        bench.gate.admit_token(replace(token, id="u"), "b")  # type: ignore[arg-type]
    assert refused.value.description == "project rate limit"
    assert bench.machine.counts == {"t": 2, "project:p": 2}


def test_model_tokens_fill_their_windows_afterwards() -> None:
    """tokens_per_minute: looked at before, filled when the exchange has ended, on both sides of Redis."""
    token = Token(tokens_per_minute=100, project=Project(tokens_per_minute=1000))
    bench = Bench(is_shared=False)
    assert bench.admitted(token, 3) == 3
    bench.gate.count_tokens(token, 100)  # type: ignore[arg-type]
    assert bench.admitted(token, 3) == 0
    assert (bench.machine.counts["tpm:t"], bench.machine.counts["tpm:p"]) == (100, 100)


def test_while_redis_is_away_the_machine_goes_on_where_it_was() -> None:
    """No error, no empty windows at the start, a look each 5 s, and back."""
    bench = Bench(distributed_max=10)
    assert bench.admitted(Token(), 6) == 6
    bench.shared.is_away, bench.shared.asked = True, 0
    assert bench.admitted(Token(), 10) == 4
    assert (bench.shared.asked, bench.gate.is_in_fallback) == (1, True)
    bench.now += 4.9
    bench.admitted(Token(), 5)
    assert bench.shared.asked == 1
    bench.now += 0.2
    bench.admitted(Token(), 5)
    assert bench.shared.asked == 2
    bench.shared.is_away = False
    bench.now += 5.1
    assert bench.admitted(Token(), 10) == 4  # Redis still has its six
    assert not bench.gate.is_in_fallback
    assert bench.gate.readiness() is None


def test_without_a_fallback_requests_and_then_the_server_wait_for_redis() -> None:
    """503 at once; /ready after 10 s, also without requests."""
    bench = Bench(distributed_fallback=False)
    assert bench.gate.readiness() is None
    bench.shared.is_away = True
    with pytest.raises(ServiceUnavailable):
        bench.gate.admit_token(Token(), "b")  # type: ignore[arg-type]
    bench.now += 9
    assert bench.gate.readiness() is None
    bench.now += 3
    assert bench.gate.readiness() == "redis"
    bench.shared.is_away = False
    bench.now += 3
    assert bench.gate.readiness() is None
    assert bench.admitted(Token(), 1) == 1


def test_the_refusal_says_when_and_what() -> None:
    """Retry-After, and the two fields of the draft."""
    bench = Bench(is_shared=False, global_rate_limit=1)
    bench.gate.admit_address("192.0.2.1")
    with pytest.raises(RateLimitExceeded) as refused:
        bench.gate.admit_address("192.0.2.2")
    error = refused.value
    assert error.retry_after_s is not None
    assert 1 <= error.retry_after_s <= 120
    assert dict(error.fields) == {
        "RateLimit-Policy": '"global";q=1;w=60',
        "RateLimit": f'"global";r=0;t={error.retry_after_s}',
    }
