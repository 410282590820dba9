"""forwarding.event_recorder: exchanges are captured while something reads events, and only counted otherwise."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from support.snapshots import token_snapshot

from llm_proxy.accounting.outcomes import Ending, decide
from llm_proxy.events.capture import Capture, CaptureLimits
from llm_proxy.events.file_sink import FileSink
from llm_proxy.events.memory import MemoryBus
from llm_proxy.events.publisher import Publisher
from llm_proxy.events.queue import Counters
from llm_proxy.events.unseen import UNSEEN
from llm_proxy.forwarding.breaker import CircuitBreaker, ConcurrencyLimit
from llm_proxy.forwarding.event_recorder import EventRecorder
from llm_proxy.forwarding.exchange import Exchange
from llm_proxy.forwarding.lane import Lane
from llm_proxy.forwarding.request import from_environ
from llm_proxy.forwarding.taps import response_taps
from llm_proxy.model.project import ProjectSnapshot
from llm_proxy.providers import load_provider
from llm_proxy.settings import UpstreamSettings, load

PROJECT = ProjectSnapshot("project-id", True, "provider-key")
TOKEN = token_snapshot(project=PROJECT)


class World:
    """A recorder on an in-memory bus."""

    def __init__(self, **options: Any) -> None:
        self.bus, self.published = MemoryBus(), 0
        self.publisher = Publisher(self.bus, counters=Counters(published=self._count), **options)
        self.recorder = EventRecorder(self.publisher, CaptureLimits(), is_required=True)
        provider = load_provider(load({"MANAGEMENT_TOKEN": "x" * 20}).checked()).provider
        self.lane = Lane(provider, slots=ConcurrencyLimit(1), breaker=CircuitBreaker(UpstreamSettings()))

    def _count(self, events: int) -> None:
        self.published += events

    def exchange(self, privacy: str = "full") -> Exchange:
        """An exchange that is about to be dispatched."""
        environ = {
            "REQUEST_METHOD": "POST",
            "RAW_URI": "/v1/chat/completions",
            "REMOTE_ADDR": "127.0.0.1",
            "CONTENT_TYPE": "application/json",
            "wsgi.input": io.BytesIO(b""),
            "wsgi.url_scheme": "http",
        }
        found = Exchange(from_environ(environ), self.lane)
        found.token = replace(TOKEN, project=replace(PROJECT, event_privacy=privacy))
        return found

    def end(self, exchange: Exchange) -> None:
        """Let the provider response 200 and the exchange end."""
        exchange.dispatched()
        exchange.response_started(200, is_stream=False)
        row = decide(Ending(True, 200, None, False, True, None, False))
        self.recorder.report(exchange, row, None)
        self.publisher.turn()


def test_without_observers_nothing_is_kept_and_the_event_is_counted() -> None:
    """The tap wants no byte of either body; the counter moves as it would for a captured event."""
    world = World()
    exchange = world.exchange()
    assert world.recorder.tap(exchange) is UNSEEN
    assert UNSEEN.request_room == 0
    assert response_taps([UNSEEN], 200, []) == []
    world.end(exchange)
    assert (world.published, world.publisher.queued, world.bus.stats().published) == (1, 0, 1)


def test_a_subscriber_sees_the_exchanges_that_begin_after_it_came() -> None:
    """One before, one after it has come, one after it has left; numbers count all of them."""
    world = World()
    before = world.exchange()
    world.recorder.tap(before)
    subscriber = world.bus.subscribe()
    world.end(before)
    seen = world.exchange()
    assert isinstance(world.recorder.tap(seen), Capture)
    world.end(seen)
    subscriber.close()
    after = world.exchange()
    assert world.recorder.tap(after) is UNSEEN
    world.end(after)
    assert [orjson.loads(wire)["LogID"] for wire in subscriber] == [2]
    assert world.published == 3


def test_a_file_of_events_is_an_observer(tmp_path: Path) -> None:
    """FILE_EVENT_LOG gets each event, without any subscriber."""
    path = tmp_path / "events.jsonl"
    world = World(file_sink=FileSink(path, count_lost=lambda count: None))
    exchange = world.exchange()
    world.recorder.tap(exchange)
    world.end(exchange)
    world.publisher.close()
    assert len(path.read_bytes().splitlines()) == 1


@pytest.mark.parametrize("is_observed", [True, False])
def test_a_project_without_events_counts_none(is_observed: bool) -> None:
    """`event_privacy` off: neither an event nor a count, observed or not."""
    world = World()
    if is_observed:
        world.bus.subscribe()
    exchange = world.exchange(privacy="off")
    world.recorder.tap(exchange)
    world.end(exchange)
    assert world.published == 0
