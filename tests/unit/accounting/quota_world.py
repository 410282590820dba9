"""Accounting with the test's clock and row: every yield is a hook, every process an object that can be released."""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llm_proxy.accounting import leases
from llm_proxy.accounting.lease_slot import POLL_S, LeaseSlot, LeaseUnit
from llm_proxy.accounting.leased_quota import LeasedQuota
from llm_proxy.accounting.ledger import SPENT, files, folder_of
from llm_proxy.accounting.rows import Swap, Use
from llm_proxy.db.errors import DatabaseAway
from llm_proxy.db.health import DatabaseHealth
from llm_proxy.errors import LlmProxyError
from llm_proxy.model.project import ProjectSnapshot
from llm_proxy.model.token import TokenSnapshot

EPOCH_S = 1_800_000_000.0
CREATED_AT = datetime.fromtimestamp(EPOCH_S, UTC)
PROJECT = ProjectSnapshot("p", is_active=True, api_key=None)


class Killed(BaseException):
    """kill -9, where it is raised."""


class Waited(Exception):
    """A call would wait now."""


@dataclass(frozen=True, kw_only=True)
class Row(TokenSnapshot):
    """A stored token."""

    hint: str = ""
    project_id: str = "p"
    is_active: bool = True
    expires_at: datetime | None = None
    request_count: int = 0
    created_at: datetime = CREATED_AT
    project: ProjectSnapshot = PROJECT
    last_used_s: float | None = None
    hits: int = 0


class World:
    """One database, several workers, and a provider that writes down what it sees.

    Attributes:
        now: Monotonic seconds.
        skew_s: Added to the database's clock.
        hook: Called with a word wherever a real worker would yield or could be killed.
        swap_fails: `lost` (the request), `unanswered` (the response), for the next swap alone.
        is_down: Every statement fails.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.now, self.skew_s = root, 100.0, 0.0
        self.rows: dict[str, Row] = {}
        self.provider: Counter[str] = Counter()
        self.hook: Callable[[str], None] = lambda where: None
        self.swap_fails: str | None = None
        self.is_down = False
        self.statements = self.swaps = 0
        self.most: dict[str, int | None] = {}  # the highest limit that was in force

    # -- the database -------------------------------------------------------------------------------------------------

    @property
    def database_s(self) -> float:
        """The database's clock."""
        return EPOCH_S + self.now + self.skew_s

    def read(self, token_ids: Sequence[str]) -> Mapping[str, Row]:
        """See `rows.Rows`."""
        self._statement("read")
        found = {id_: self.rows[id_] for id_ in token_ids if id_ in self.rows}
        found = {id_: replace(row, read_at=self.now, database_s=self.database_s) for id_, row in found.items()}
        self.hook("has read")
        return found

    def swap(self, swap: Swap) -> bool:
        """See `rows.Rows`."""
        self._statement("swap")
        self.swaps += 1
        fails, self.swap_fails = self.swap_fails, None
        if fails == "lost":
            raise DatabaseAway("lost")
        row = self.rows.get(swap.token_id)
        is_done = row is not None and row.lease_version == swap.version
        if row is not None and is_done:
            used = [second for second in (row.last_used_s, swap.used_s) if second is not None]
            self.rows[row.id] = replace(
                row, request_count=swap.plan.count, leases=leases.render(swap.plan.leases),
                lease_version=row.lease_version + 1, last_used_s=max(used, default=None),
            )  # fmt: skip
        self.hook("has swapped")
        if fails == "unanswered":
            raise DatabaseAway("unanswered")
        return is_done

    def add(self, uses: Mapping[str, Use]) -> None:
        """See `rows.Rows`."""
        self._statement("add")
        for id_, use in uses.items():
            self.rows[id_] = replace(self.rows[id_], hits=self.rows[id_].hits + use.hits)

    def database_id(self) -> str:
        """See `rows.Rows`."""
        self._statement("id")
        return "database"

    def close(self) -> None:
        """See `rows.Rows`."""

    def _statement(self, word: str) -> None:
        self.hook(f"will {word}")
        self.statements += 1
        if self.is_down:
            raise DatabaseAway("down")

    # -- management ---------------------------------------------------------------------------------------------------

    def token(self, max_requests: int | None, id_: str = "token", **values: Any) -> Row:
        """Store a token."""
        row = self.rows[id_] = Row(id=id_, max_requests=max_requests, **values)
        self.most[id_] = max_requests
        return row

    def patch(self, id_: str = "token", **values: Any) -> None:
        """Change a row as management does."""
        row = self.rows[id_]
        self.rows[id_] = replace(row, lease_version=row.lease_version + 1, **values)
        most, limit = self.most[id_], self.rows[id_].max_requests
        self.most[id_] = None if most is None or limit is None else max(most, limit)

    # -- what holds ---------------------------------------------------------------------------------------------------

    def held(self, id_: str = "token") -> dict[int, leases.Entry]:
        """Leases in the row."""
        return leases.parse(self.rows[id_].leases)

    def ledgers(self) -> list[Path]:
        """Ledger files."""
        return list(files(folder_of(self.root, "database")))

    def check(self) -> None:
        """Never over."""
        for id_, most in self.most.items():
            assert most is None or self.provider[id_] <= most, f"{id_}: {self.provider[id_]} of {most}"

    def expires_in(self, seconds: float) -> datetime:
        """An instant of the database's clock."""
        return datetime.fromtimestamp(self.database_s + seconds, UTC)


@dataclass
class Worker:
    """One process."""

    world: World
    is_patient: bool = False
    held: list[LeaseUnit] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.health = DatabaseHealth(lambda: self.world.now)
        self.health.offset_s = EPOCH_S
        self.quota = LeasedQuota(
            self.world, root=self.world.root, health=self.health, pause=self._pause, **self.options
        )
        refresh = self.world.read

        def learning(token_ids: Sequence[str]) -> Mapping[str, Row]:
            found = refresh(token_ids)
            for row in found.values():
                self.health.learn(row.database_s, row.read_at)
            return found

        self.read = learning

    def _pause(self, seconds: float) -> None:
        if seconds == POLL_S and not self.is_patient:
            raise Waited
        self.world.now += seconds
        self.world.hook("pauses")

    def slot(self, id_: str = "token") -> LeaseSlot | None:
        """This worker's slot of a token."""
        return self.quota._table.slots.get(id_)

    def spent(self, id_: str = "token") -> int:
        """What its ledger shows."""
        slot, ledger = self.slot(id_), self.quota._table.ledger
        return 0 if slot is None or ledger is None else ledger.ints[slot.at + SPENT]

    def take(self, id_: str = "token") -> LeaseUnit:
        """A unit, not sent yet."""
        self.world.hook("will note")
        unit = self.quota.reserve(self.world.rows[id_])
        self.world.hook("has noted")
        return unit

    def send(self, unit: LeaseUnit, id_: str = "token") -> None:
        """Dispatch."""
        self.world.provider[id_] += 1
        self.world.hook("has dispatched")
        self.quota.commit(unit)
        self.world.check()

    def call(self, id_: str = "token") -> bool:
        """A whole request; False when it was refused or would wait."""
        try:
            unit = self.take(id_)
        except (LlmProxyError, Waited):
            return False
        self.send(unit, id_)
        return True

    def calls(self, number: int, id_: str = "token") -> int:
        """How many of so many calls were admitted."""
        return sum(self.call(id_) for _ in range(number))

    def note_within(self, id_: str = "token") -> bool:
        """What another greenlet can do while one waits for the database: note a unit, without a statement."""
        slot = self.slot(id_)
        if slot is None or not self.quota._table.spend(slot):
            return False
        self.world.provider[id_] += 1
        slot.pending -= 1
        return True

    def sync(self) -> None:
        """One sync."""
        self.quota.sync()

    def kill(self) -> None:
        """kill -9: the kernel frees the lock, the ledger stays."""
        if self.quota._table.ledger is not None:
            self.quota._table.ledger.release()

    def close(self) -> None:
        """A drain."""
        self.is_patient = True
        self.quota.close()


def rest(world: World, workers: Sequence[Worker]) -> None:
    """Bring all workers to rest."""
    world.hook = lambda where: None
    world.is_down, world.swap_fails = False, None
    for worker in workers:
        worker.close()


def shuffled(seed: int) -> random.Random:
    """Repeatable chance."""
    return random.Random(seed)
