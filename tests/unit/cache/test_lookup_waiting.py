"""What requests get that wait for another's exchange."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from llm_proxy.cache.engine import ResponseCache
from llm_proxy.cache.invalidation import WriteTimes
from llm_proxy.cache.lookup import CacheLookup
from llm_proxy.cache.memory import MemoryStore
from llm_proxy.cache.policy import NO_DIRECTIVES, Rules
from llm_proxy.cache.purges import Purges, PurgesInMemory
from llm_proxy.cache.scopes import Scope
from llm_proxy.cache.singleflight import SingleFlight

Ask = Callable[..., CacheLookup]
NOW = 1_800_000_000.0


class Store(MemoryStore):
    """One that can be unavailable, and then keeps nothing, as Redis' would."""

    is_away = False

    @property
    def is_left_alone(self) -> bool:
        """As the test has it."""
        return self.is_away


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ResponseCache]:
    """An empty one."""
    made = ResponseCache(
        Store(tmp_path, most_bytes=1 << 20, clock=lambda: NOW),
        writes=WriteTimes(tmp_path),
        purges=Purges(PurgesInMemory()),
        singleflight=SingleFlight(tmp_path),
        rules=Rules(),
        clock=lambda: NOW,
    )
    yield made
    made.close()


@pytest.fixture
def ask(cache: ResponseCache) -> Ask:
    """A request that has looked in vain."""

    def ask(values: Mapping[str, str] | None = None, path: str = "/v1/models") -> CacheLookup:
        given = dict(values or {})
        made = CacheLookup(
            cache,
            NO_DIRECTIVES,
            project="p",
            method="GET",
            path=path,
            query="",
            fields=tuple(given.items()),
            values=given,
        )
        made.decide()
        return made

    return ask


def lead(asked: CacheLookup) -> CacheLookup:
    """The same as a leader."""
    asked.fetch = asked.join()
    assert asked.fetch is not None
    assert asked.fetch.is_leader
    return asked


def receive(leader: CacheLookup, cache_control: str = "public, max-age=60", **more: str) -> None:
    """A whole response, taken in as it passes."""
    fields = [("Cache-Control", cache_control), ("Content-Length", "4"), *more.items()]
    recorder = leader.responded(200, "OK", fields, requested_at=NOW).recorder
    assert recorder is not None
    recorder(b"body")


def test_a_waiting_request_gets_a_response_that_is_not_stored(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that fails, or takes its time, is no reason to ask the provider once for each."""
    leader, follower = lead(ask()), ask()
    fetch = follower.join()
    assert fetch is not None
    monkeypatch.setattr(Store, "put", lambda *args: False)
    receive(leader)
    found = follower.accept(fetch)
    assert found is not None
    assert found.content == b"body"
    assert leader.join() is not fetch  # it has finished: the next one leads


def test_a_request_need_not_wait_while_a_response_is_stored(ask: Ask) -> None:
    """It is there already."""
    leader = lead(ask())
    assert leader.fetch is not None
    recorder = leader.responded(200, "OK", [("Cache-Control", "public, max-age=60")], requested_at=NOW).recorder
    assert recorder is not None
    leader.fetch.publish(recorder._entry)
    late = ask()
    fetch = late.join()
    assert fetch is not None
    assert late._cache.singleflight.wait(fetch, 0.0)
    assert late.accept(fetch) is not None


def test_a_response_from_before_a_purge_is_not_handed_on(cache: ResponseCache, ask: Ask) -> None:
    """A request after the purge was confirmed gets what is fetched after it."""
    leader = lead(ask())
    cache.purge(Scope(project="p"))
    late = ask()
    fetch = late.join()
    receive(leader)
    assert fetch is not None
    assert late.accept(fetch) is None


@pytest.mark.parametrize(("name", "is_for_it"), [("X-A", False), ("X-B", True)])
def test_a_response_that_varies_is_handed_on_to_its_like(ask: Ask, name: str, is_for_it: bool) -> None:
    """Both ask with another X-A."""
    leader, follower = lead(ask({"X-A": "1"})), ask({"X-A": "2"})
    fetch = follower.join()
    receive(leader, Vary=name)
    assert fetch is not None
    assert (follower.accept(fetch) is not None) is is_for_it


def test_no_request_waits_for_a_failed_store(cache: ResponseCache, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing would be found where the leader could not store it; the provider is asked at once."""
    lead(ask())
    assert ask().join() is not None
    monkeypatch.setattr(cache.store, "is_away", True)
    assert ask().join() is None


def test_no_request_waits_for_a_response_that_is_to_be_validated(ask: Ask) -> None:
    """At its head, and from then on."""
    leader, follower = lead(ask()), ask()
    fetch = follower.join()
    assert fetch is not None
    head = [("Cache-Control", "public, no-cache"), ("ETag", '"a"')]
    assert leader.responded(200, "OK", head, requested_at=NOW).recorder is not None
    assert leader._cache.singleflight.wait(fetch, 0.0)
    assert ask().join() is None
