"""Random walks: workers that take, refund, sync, stop, die; management; outages; a clock that jumps. Never over."""

import tempfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, precondition, rule
from unit.accounting.quota_world import Waited, Worker, World

from llm_proxy.accounting.lease_slot import LeaseUnit
from llm_proxy.errors import LlmProxyError

WORKERS = st.integers(0, 3)
SMALL = st.integers(1, 12)


class Walk(RuleBasedStateMachine):
    """Four workers on one limited and one unlimited token.

    A stopped worker does nothing but what a process may do that was stopped between its check and its note. At rest
    counts are the provider's log, and units that a kill caught between note and dispatch.
    """

    units = Bundle("units")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.world = World(Path(self.folder.name))
        self.world.token(25)
        self.world.token(None, "free")
        self.workers = [Worker(self.world) for _ in range(4)]
        self.stopped: set[int] = set()
        self.in_flight: dict[int, list[tuple[str, LeaseUnit]]] = {n: [] for n in range(4)}
        self.caught = {"token": 0, "free": 0}
        self.pruned = 0

    def teardown(self) -> None:
        try:
            self._rest()
        finally:
            for worker in self.workers:
                worker.kill()
            self.folder.cleanup()

    def _rest(self) -> None:
        for n in range(4):
            self.kill(n) if n in self.stopped else self.wake(n)
        self.world.hook = lambda where: None
        self.world.is_down, self.world.swap_fails = False, None
        for n, worker in enumerate(self.workers):
            for id_, unit in self.in_flight[n]:
                worker.send(unit, id_)
            worker.close()
        last = Worker(self.world)
        last.sync()
        last.close()
        self.world.check()
        assert self.world.ledgers() == []
        for id_, row in self.world.rows.items():
            above = row.request_count - self.world.provider[id_]
            # Silent for a day, then dead: what its unlimited token had not settled is owed no more.
            least = -self.world.provider[id_] if self.pruned and id_ == "free" else 0
            assert least <= above <= self.caught[id_] + (self.pruned if id_ == "token" else 0), (id_, above)
            if not self.pruned:
                assert row.leases is None

    def at_work(self, n: int) -> Worker | None:
        return None if n in self.stopped else self.workers[n]

    # -- requests -----------------------------------------------------------------------------------------------------

    @rule(n=WORKERS, id_=st.sampled_from(("token", "free")), number=SMALL)
    def call(self, n: int, id_: str, number: int) -> None:
        if worker := self.at_work(n):
            worker.calls(number, id_)

    @rule(target=units, n=WORKERS, id_=st.sampled_from(("token", "free")))
    def take(self, n: int, id_: str) -> Any:
        worker = self.at_work(n)
        if worker is None:
            return multiple()
        try:
            unit = worker.take(id_)
        except (LlmProxyError, Waited):
            return multiple()
        self.in_flight[n].append((id_, unit))
        return (n, id_, unit)

    @rule(unit=consumes(units), is_sent=st.booleans())
    def end(self, unit: tuple[int, str, LeaseUnit], is_sent: bool) -> None:
        n, id_, taken = unit
        if n in self.stopped or (id_, taken) not in self.in_flight[n]:
            return
        self.in_flight[n].remove((id_, taken))
        if is_sent:
            self.workers[n].send(taken, id_)
        else:
            self.workers[n].quota.release(taken)

    @rule(n=WORKERS, by=WORKERS, number=SMALL, where=st.sampled_from(("has read", "will swap", "has swapped")))
    def beat_while_others_take(self, n: int, by: int, number: int, where: str) -> None:
        """Other greenlets of this worker, and another worker, act while a sync waits for the database."""
        worker, other = self.at_work(n), self.at_work(by)
        if worker is None:
            return
        self.world.hook = lambda at: self._interrupt(worker, other, number) if at == where else None
        worker.sync()
        self.world.hook = lambda at: None

    def _interrupt(self, worker: Worker, other: Worker | None, number: int) -> None:
        hook, self.world.hook = self.world.hook, lambda at: None
        for _ in range(number):
            worker.note_within()
            worker.note_within("free")
        if other is not None and other is not worker:
            other.call()
            other.sync()
        self.world.hook = hook

    @rule(n=WORKERS)
    def sync(self, n: int) -> None:
        if worker := self.at_work(n):
            worker.sync()

    # -- what befalls workers -----------------------------------------------------------------------------------------

    @rule(n=WORKERS)
    def stop(self, n: int) -> None:
        self.stopped.add(n)

    @rule(n=WORKERS)
    def wake(self, n: int) -> None:
        self.stopped.discard(n)

    @rule(n=WORKERS)
    def send_past_the_check(self, n: int) -> None:
        """A worker that was stopped between its check and its note has its note before everything else."""
        worker = self.workers[n]
        slot = worker.slot()
        if n in self.stopped and slot is not None and worker.spent() < slot.limit and slot.refusal is None:
            assert worker.quota._table.spend(slot, is_synced=True) or slot.expires_s < float("inf")
            self.world.provider["token"] += 1
            slot.pending -= 1

    @rule(n=WORKERS)
    def kill(self, n: int) -> None:
        for id_, _ in self.in_flight[n]:
            self.caught[id_] += 1
        self.in_flight[n] = []
        self.workers[n].kill()
        self.workers[n] = Worker(self.world)
        self.stopped.discard(n)

    # -- time and the database ----------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from((0.05, 0.3, 0.5, 1.0, 2.1, 5.1)))
    def pass_time(self, seconds: float) -> None:
        self.world.now += seconds

    @rule(skew_s=st.sampled_from((0.0, 5.0, -5.0)))
    def set_clock(self, skew_s: float) -> None:
        self.world.skew_s = skew_s

    @precondition(lambda self: self.pruned == 0)
    @rule()
    def let_a_day_pass(self) -> None:
        """Charges of silent leases become final: what their workers had not spent is lost."""
        self.world.now += 90_000
        self.pruned = 25 * 8

    @rule(is_down=st.booleans())
    def outage(self, is_down: bool) -> None:
        self.world.is_down = is_down

    @rule(fails=st.sampled_from(("lost", "unanswered", None)))
    def lose(self, fails: str | None) -> None:
        self.world.swap_fails = fails

    # -- management ---------------------------------------------------------------------------------------------------

    @rule(limit=st.sampled_from((1, 10, 25, 40, 60)))
    def patch(self, limit: int) -> None:
        """Up and down. What is granted under the higher limit may still be spent: the highest one binds."""
        self.world.patch(max_requests=limit)

    @rule(is_active=st.booleans())
    def revoke(self, is_active: bool) -> None:
        self.world.patch(is_active=is_active)

    @invariant()
    def never_over(self) -> None:
        self.world.check()
        limit = self.world.most["token"]
        row = self.world.rows["token"]
        out = sum(max(0, entry.granted - entry.settled) for entry in self.world.held().values())
        assert limit is None or row.request_count + out <= limit


def profile(examples: int, steps: int) -> settings:
    """Enough walks to find each mutation that the scheme names, in a few seconds."""
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )


TestWalk = Walk.TestCase
TestWalk.settings = profile(100, 50)
