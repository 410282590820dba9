"""events.memory: fan-out within a process."""

from llm_proxy.events.memory import MemoryBus


def test_each_subscriber_gets_every_event_in_order() -> None:
    """Two queues, both complete."""
    bus = MemoryBus()
    one, two = bus.subscribe(), bus.subscribe()
    bus.publish([b"a", b"b"])
    bus.close()
    assert list(one) == list(two) == [b"a", b"b"]


def test_a_full_subscriber_loses_events_alone_and_counted() -> None:
    """Its neighbour gets all; the count is per subscriber and in the sum."""
    bus = MemoryBus()
    slow, quick = bus.subscribe(most=2), bus.subscribe()
    bus.publish([b"a", b"b", b"c"])
    assert (slow.dropped, quick.dropped, bus.stats().dropped, bus.stats().published) == (1, 0, 1, 3)
    assert slow.get() == b"a"
    bus.publish([b"d"])
    assert [slow.get(), slow.get(), slow.get(0.01)] == [b"b", b"d", None]


def test_closing_ends_subscribers_after_what_they_have_queued() -> None:
    """Nothing queued is lost."""
    bus = MemoryBus()
    subscriber = bus.subscribe()
    bus.publish([b"a"])
    bus.close()
    assert list(subscriber) == [b"a"]
    assert subscriber.get() is None


def test_publishing_after_the_end_is_counted_only() -> None:
    """No error, no event."""
    bus = MemoryBus()
    subscriber = bus.subscribe()
    bus.close()
    bus.publish([b"late"])
    assert bus.stats().late == 1
    assert list(subscriber) == []


def test_a_subscriber_that_left_gets_nothing_more() -> None:
    """Its drops stay counted."""
    bus = MemoryBus()
    subscriber = bus.subscribe(most=1)
    bus.publish([b"a", b"b"])
    subscriber.close()
    bus.publish([b"c"])
    assert list(subscriber) == [b"a"]
    assert bus.stats().dropped == 1


def test_numbers_are_reserved_in_one_piece() -> None:
    """Each call gets a run of numbers that follows the last one."""
    bus = MemoryBus()
    assert [bus.reserve(1), bus.reserve(3), bus.reserve(1)] == [1, 2, 5]
