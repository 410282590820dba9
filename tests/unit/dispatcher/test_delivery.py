"""dispatcher.delivery: what is acknowledged, given up, tried again, held."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest
from redis.exceptions import ConnectionError as RedisGone
from support.dispatcher import event_uuid, make_event

from llm_proxy.dispatcher import delivery as module
from llm_proxy.dispatcher.backends.base import DELIVERED, BackendConfig, Result, Verdict
from llm_proxy.dispatcher.delivery import Delivery
from llm_proxy.dispatcher.options import options
from llm_proxy.dispatcher.payload import Payload
from llm_proxy.dispatcher.series import Series
from llm_proxy.dispatcher.state import State
from llm_proxy.dispatcher.transform import Transformer
from llm_proxy.events.bus import Entry
from llm_proxy.settings import DispatcherSettings, EventSettings, Settings

TRANSIENT = Result(Verdict.TRANSIENT, "HTTP 503", is_whole=True)
REFUSED = Result(Verdict.PERMANENT, "HTTP 400", is_whole=True)
HELD = Result(Verdict.CONFIGURATION, "HTTP 401", is_whole=True)
OWN_FAULT = Result(Verdict.TRANSIENT, "HTTP 500", is_own_fault=True)

Response = Callable[[list[int]], list[Result]]


class World:
    """A delivery whose back end, bus and clock are told what to do."""

    default_endpoint: ClassVar[str] = ""
    needs_key: ClassVar[bool] = False
    is_http: ClassVar[bool] = False

    def __init__(self) -> None:
        self.response: Response = lambda numbers: [DELIVERED] * len(numbers)
        self.calls: list[list[int]] = []
        self.acked: list[int] = []
        self.dead: list[tuple[str, str]] = []
        self.pauses: list[float] = []
        self.fresh: list[Entry] = []
        self.redis_failures = 0
        self.is_stopping = False
        self.most_pauses = 60
        self.options = options(
            Settings(
                events=EventSettings(bus="redis-streams"),
                dispatcher=DispatcherSettings(retry_attempts=2, max_deliveries=6),
            )
        )
        self.state = State(self.options, Series("test"))
        self.delivery = Delivery(
            options=self.options,
            source=self,  # type: ignore[arg-type]
            backend=self,
            dead_letters=self,  # type: ignore[arg-type]
            transformer=Transformer(key="k"),
            state=self.state,
            clock=self,
            more=self._more,
        )

    def _more(self) -> list[Entry]:
        return [self.fresh.pop(0)] if self.fresh else []

    # the back end
    def send(self, payloads: Sequence[Payload]) -> list[Result]:
        numbers = [int(payload.request_id.removeprefix("request-")) for payload in payloads]
        self.calls.append(numbers)
        return self.response(numbers)

    def reopen(self) -> None: ...

    def close(self) -> None: ...

    def __call__(self, config: BackendConfig) -> "World":
        return self

    # the bus and the dead letters
    def ack(self, entries: Sequence[Entry]) -> None:
        if self.redis_failures:
            self.redis_failures -= 1
            raise RedisGone("away")
        self.acked += [int(entry.id) for entry in entries]

    def add(self, data: bytes | None, *, reason: str, error: str, original_id: str, **_: Any) -> None:
        if self.redis_failures:
            self.redis_failures -= 1
            raise RedisGone("away")
        self.dead.append((original_id, reason))

    # the clock
    def pause(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        assert len(self.pauses) < self.most_pauses, "it never ends"
        return not self.is_stopping


def entries(*numbers: int, **more: Any) -> list[Entry]:
    """Entries whose ids are their numbers."""
    return [Entry(str(n), make_event(n, **more).to_wire()) for n in numbers]


def test_what_is_delivered_is_acknowledged() -> None:
    """One call, one acknowledgement, counted."""
    world = World()
    world.delivery.deliver(entries(1, 2, 3))
    assert (world.calls, world.acked, world.state.sent) == ([[1, 2, 3]], [1, 2, 3], 3)


def test_filtered_and_unparsable_entries_do_not_stay() -> None:
    """Other methods are acknowledged; what is no event is a dead letter first."""
    world = World()
    world.delivery.deliver([*entries(1), *entries(2, method="GET"), Entry("3", b"nonsense"), Entry("4", None)])
    assert sorted(world.acked) == [1, 2, 3, 4]
    assert world.dead == [("3", "unparsable"), ("4", "unparsable")]
    assert world.calls == [[1]]


def test_a_transformation_that_raises_is_a_dead_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the end of the process."""
    world = World()
    monkeypatch.setattr(Transformer, "payload", lambda self, event, entry: 1 / 0)
    world.delivery.deliver(entries(1))
    assert world.dead == [("1", "transform_error")]


@pytest.mark.parametrize("bad", [0, 7, 49, 99])
def test_one_refused_event_in_a_batch_is_found_and_given_up_alone(bad: int) -> None:
    """400 for the batch: halved down to the culprit; the other 99 arrive."""
    world = World()
    world.response = lambda numbers: [REFUSED if bad in numbers else DELIVERED] * len(numbers)
    world.delivery.deliver(entries(*range(100)))
    assert world.dead == [(str(bad), "rejected")]
    assert sorted(world.acked) == list(range(100))
    delivered = Counter(n for call in world.calls if bad not in call for n in call)
    assert set(delivered.values()) == {1}
    assert len(world.calls) < 20


def test_a_failing_batch_is_tried_again_with_growing_pauses() -> None:
    """Three tries, then through; nothing is acknowledged before."""
    world = World()
    world.response = lambda numbers: [TRANSIENT if len(world.calls) < 3 else DELIVERED] * len(numbers)
    world.delivery.deliver(entries(1, 2))
    assert world.calls == [[1, 2]] * 3
    assert world.acked == [1, 2]
    assert 0.7 < world.pauses[0] < 1.3 < world.pauses[1] < 2.5


def test_only_what_failed_is_sent_again() -> None:
    """Results are kept for each event."""
    world = World()
    world.response = lambda numbers: [
        Result(Verdict.TRANSIENT, "x") if n % 2 and len(world.calls) < 2 else DELIVERED for n in numbers
    ]
    world.delivery.deliver(entries(1, 2, 3, 4))
    assert world.calls == [[1, 2, 3, 4], [1, 3]]
    assert world.acked == [2, 4, 1, 3]


def test_an_outage_holds_everything_and_gives_up_nothing() -> None:
    """40 failing tries, then delivered in order: no dead letter, and one try per 30 s."""
    world = World()
    world.response = lambda numbers: [TRANSIENT if len(world.calls) < 40 else DELIVERED] * len(numbers)
    world.delivery.deliver(entries(1, 2, 3))
    assert (world.dead, world.acked) == ([], [1, 2, 3])
    assert set(world.pauses[2:]) == {30.0}


def test_wrong_credentials_hold_until_they_are_mended() -> None:
    """401: held, unhealthy, no retries at the usual pace; then everything arrives."""
    world = World()

    def response(numbers: list[int]) -> list[Result]:
        if len(world.calls) == 3:
            assert world.state.held_by == "HTTP 401"
            assert not world.state.report()[0]
        return [HELD if len(world.calls) < 4 else DELIVERED] * len(numbers)

    world.response = response
    world.delivery.deliver(entries(1))
    assert world.pauses == [30.0] * 3
    assert (world.acked, world.dead, world.state.held_by) == ([1], [], None)


def test_an_event_that_keeps_failing_while_others_pass_is_given_up() -> None:
    """It delays no other, is tried as often as told, and then becomes a dead letter."""
    world = World()
    world.response = lambda numbers: [Result(Verdict.TRANSIENT, "x") if n == 2 else DELIVERED for n in numbers]
    world.delivery.deliver(entries(1, 2, 3))
    assert (world.acked, world.dead) == ([1, 3], [])
    for n in range(10, 16):
        world.delivery.deferred_until = 0.0
        world.delivery.deliver(entries(n))
    assert world.dead == [("2", "exhausted")]
    assert world.acked == [1, 3, 10, 11, 12, 2, 13, 14, 15]


def test_a_lone_bad_event_does_not_block_the_bus() -> None:
    """One more entry tells that the service is up; the event is set aside and others go on."""
    world = World()
    world.fresh = entries(2)
    world.response = lambda numbers: [TRANSIENT if 1 in numbers else DELIVERED] * len(numbers)
    world.delivery.deliver(entries(1))
    assert world.acked == [2]
    world.delivery.deliver(entries(3))
    assert 3 in world.acked
    assert [item.entry.id for item in world.delivery.deferred] == ["1"]


def test_probing_in_an_outage_keeps_the_order() -> None:
    """The entry that was read to tell is delivered after the batch and before what comes next."""
    world = World()
    world.fresh = entries(3, 4, 5)
    world.response = lambda numbers: [TRANSIENT if len(world.calls) < 13 else DELIVERED] * len(numbers)
    world.delivery.deliver(entries(1, 2))
    assert len(world.fresh) < 3
    world.delivery.deliver([*world.fresh, *entries(6)])
    assert world.acked == [1, 2, 3, 4, 5, 6]


def test_an_own_fault_is_given_up_after_its_tries_where_others_pass() -> None:
    """A malformed log that the service answers with 500."""
    world = World()
    world.response = lambda numbers: [OWN_FAULT if n == 2 else DELIVERED for n in numbers]
    world.delivery.deliver(entries(1, 2, 3))
    assert (world.dead, sorted(world.acked)) == ([("2", "exhausted")], [1, 2, 3])


def test_a_flaky_service_is_no_reason_to_give_up_events() -> None:
    """Where others failed with 500 and were then delivered, 500 says nothing about an event."""
    world = World()
    tried: Counter[int] = Counter()

    def response(numbers: list[int]) -> list[Result]:
        tried.update(numbers)
        return [OWN_FAULT if n == 2 or tried[n] < 2 else DELIVERED for n in numbers]

    world.response = response
    world.delivery.deliver(entries(1, 2, 3))
    assert world.dead == []
    assert [item.entry.id for item in world.delivery.deferred] == ["2"]


def test_redis_away_at_an_acknowledgement_means_trying_again() -> None:
    """The event is not sent twice for it."""
    world = World()
    world.redis_failures = 3
    world.delivery.deliver(entries(1))
    assert (world.calls, world.acked) == ([[1]], [1])


def test_a_dead_letter_that_cannot_be_written_is_not_acknowledged() -> None:
    """While Redis is unavailable until the stop: neither lost nor acknowledged."""
    world = World()
    world.redis_failures, world.is_stopping = 1000, True
    world.delivery.deliver([Entry("1", b"nonsense")])
    assert (world.dead, world.acked) == ([], [])


def test_a_stop_during_an_outage_leaves_events_pending() -> None:
    """The back-off is not waited for beyond what is left; nothing is acknowledged."""
    world = World()
    world.response = lambda numbers: [TRANSIENT] * len(numbers)
    world.is_stopping = True
    world.delivery.deliver(entries(1, 2))
    assert world.delivery.has_given_up
    assert (world.acked, world.dead) == ([], [])


def test_large_batches_are_taken_apart_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Payloads exist for a few MiB of events at a time."""
    monkeypatch.setattr(module, "CHUNK_BYTES", 10_000)
    world = World()
    world.delivery.deliver(entries(*range(20), request_body=b"x" * 3000))
    assert [len(call) for call in world.calls] == [3, 3, 3, 3, 3, 3, 2]
    assert event_uuid(3).version == 7
