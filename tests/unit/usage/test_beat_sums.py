"""usage.beat_sums: a beat's exchanges reach rollup, metrics and limits as one sum for each token and model."""

from datetime import date
from typing import Any

import pytest
from support.snapshots import token_snapshot

from llm_proxy import metrics
from llm_proxy.formats.usage import Usage
from llm_proxy.model.project import ProjectSnapshot
from llm_proxy.model.token import TokenSnapshot
from llm_proxy.usage.beat_sums import BeatSums
from llm_proxy.usage.rollup import Key, Sums

DAY = date(2026, 1, 2)


class Rollup:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Key, Sums, str | None]] = []

    def add(self, key: Key, sums: Sums, once: str | None = None) -> None:
        """Note it."""
        self.told.append((key, sums, once))


class World:
    """Sums of a beat, and what became of them."""

    def __init__(self) -> None:
        self.rollup, self.counted = Rollup(), list[tuple[str, int]]()
        told: Any = self.rollup
        self.sums = BeatSums(told, lambda token, tokens: self.counted.append((token.id, tokens)))

    def end(self) -> list[tuple[Key, Sums, str | None]]:
        """End the beat; what the rollup was told."""
        self.sums.end(DAY)
        told, self.rollup.told = self.rollup.told, []
        return told


@pytest.fixture
def world() -> World:
    """A new one."""
    return World()


def token(name: str) -> TokenSnapshot:
    """A token of project p."""
    return token_snapshot(id=name, project_id="p", project=ProjectSnapshot("p", True, "key"))


def test_exchanges_of_a_token_and_model_are_one_sum(world: World) -> None:
    """Two exchanges of one model, one of another, one of another token: three sums, and one count a sum."""
    world.sums.add(token("a"), "m", Usage(10, 5, 2, 1), 7)
    world.sums.add(token("a"), "m", Usage(1, 1, is_estimated=True), 3)
    world.sums.add(token("a"), "n", Usage(1, 0), None)
    world.sums.add(token("b"), "m", None, 0)
    assert world.end() == [
        (Key(DAY, "p", "a", "m"), Sums(2, 11, 6, 2, 1, 1, 10), None),
        (Key(DAY, "p", "a", "n"), Sums(1, 1, 0, 0, 0, 0, None), None),
        (Key(DAY, "p", "b", "m"), Sums(1, cost_nano_usd=0), None),
    ]
    assert world.counted == [("a", 17), ("a", 1)]


def test_a_beat_leaves_nothing_to_the_next(world: World) -> None:
    """What was handed on is not handed on again."""
    world.sums.add(token("a"), "m", Usage(1, 1), 1)
    assert len(world.end()) == 1
    assert world.end() == []
    assert world.counted == [("a", 2)]


def test_metrics_get_the_sums(world: World) -> None:
    """Model tokens by kind, exchanges without a price, and money."""

    def shown() -> list[float]:
        names = ("llm_proxy_unpriced_requests_total", "llm_proxy_cost_usd_total")
        kinds = [("llm_proxy_model_tokens_total", {"kind": kind}) for kind in ("prompt", "completion")]
        values = (metrics.REGISTRY.get_sample_value(*of) for of in [*((name, None) for name in names), *kinds])
        return [value or 0.0 for value in values]

    before = shown()
    world.sums.add(token("a"), "m", Usage(10, 5), 2_000_000_000)
    world.sums.add(token("a"), "x", Usage(1, 1), None)
    world.sums.add(token("a"), "x", Usage(1, 1), None)
    world.end()
    assert [after - was for after, was in zip(shown(), before, strict=True)] == pytest.approx([2, 2.0, 12, 7])


def test_each_provider_has_sums_and_metrics_of_its_own() -> None:
    """Where several are served, the same model of two providers is two sums, and the metrics name the provider."""

    def shown() -> list[float]:
        kinds = [("llm_proxy_provider_model_tokens_total", {"provider": name, "kind": "prompt"}) for name in ("a", "b")]
        values = [*kinds, ("llm_proxy_provider_cost_usd_total", {"provider": "b"})]
        return [metrics.REGISTRY.get_sample_value(*of) or 0.0 for of in values]

    before, rollup = shown(), Rollup()
    told: Any = rollup
    sums = BeatSums(told, lambda token, tokens: None, has_providers=True)
    sums.add(token("a"), "m", Usage(10, 5), None, "a")
    sums.add(token("a"), "m", Usage(3, 1), 2_000_000_000, "b")
    sums.end(DAY)
    assert [key for key, _, _ in rollup.told] == [Key(DAY, "p", "a", "m", "a"), Key(DAY, "p", "a", "m", "b")]
    assert [after - was for after, was in zip(shown(), before, strict=True)] == pytest.approx([10, 3, 2.0])


def test_an_object_that_counts_once_goes_on_at_once(world: World) -> None:
    """The rollup decides by its id, so that it is no part of a sum."""
    key = Key(DAY, "p", "a", "m")
    world.sums.add_once(token("a"), key, Usage(1, 1), 1, "resp_1")
    assert world.rollup.told == [(key, Sums(1, 1, 1, 0, 0, 0, 1), "resp_1")]
    assert world.counted == [("a", 2)]
