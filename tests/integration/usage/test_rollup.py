"""Sums reach the database once each, on every engine."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import Any

import pytest
from sqlalchemy import select
from support.databases import Database
from support.usage_sums import sums_of

from llm_proxy.db.models import UsageRow
from llm_proxy.formats.usage import Usage
from llm_proxy.usage.rollup import Key, Rollup

KEY = Key(date(2026, 1, 2), "p", "t", "gpt-4o")


def rows(database: Database) -> list[tuple[Any, ...]]:
    """What the table holds."""
    table: Any = UsageRow.__table__
    with database.engine().connect() as connection:
        found = connection.execute(
            select(table.c.day, table.c.model, table.c.requests, table.c.prompt_tokens, table.c.cost_nano_usd)
        )
        return [tuple(row) for row in found]


def test_sums_of_workers_add_up(ready_database: Database) -> None:
    """Two workers, two flushes each: one row a day, token and model."""
    workers = [Rollup(ready_database.engine()) for _ in range(2)]
    for _ in range(2):
        for worker in workers:
            worker.add(KEY, sums_of(Usage(10, 1), 5))
            assert worker.flush()
    assert rows(ready_database) == [(date(2026, 1, 2), "gpt-4o", 4, 40, 20)]


def test_each_provider_has_its_own_sum(ready_database: Database) -> None:
    """The same model of two providers is two rows."""
    worker = Rollup(ready_database.engine())
    for provider in ("openai", "azure", "azure"):
        worker.add(KEY._replace(provider=provider), sums_of(Usage(10, 1), 5))
    assert worker.flush()
    assert sorted(row[2] for row in rows(ready_database)) == [1, 2]


def test_an_object_is_counted_once_over_all_workers(ready_database: Database) -> None:
    """Its tokens by its id; each request that showed it counts as one."""
    for worker in [Rollup(ready_database.engine()) for _ in range(2)]:
        worker.add(KEY, sums_of(Usage(10, 1), 5), once="resp_1")
        assert worker.flush()
    assert rows(ready_database) == [(date(2026, 1, 2), "gpt-4o", 2, 10, 5)]


def test_an_absurd_sum_is_dropped_and_the_others_are_written(
    ready_database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """A batch that the database refuses is split until the culprit stands alone."""
    worker = Rollup(ready_database.engine())
    keys = [KEY._replace(token_id=f"t{n}") for n in range(7)]
    for n, key in enumerate(keys):
        worker.add(key, sums_of(Usage(10, 1), 2**63 if n == 4 else 5))
    worker.add(KEY._replace(token_id="t9"), sums_of(Usage(10, 1), 5), once="resp_9")
    assert worker.flush()
    assert sum(row[3] for row in rows(ready_database)) == 70
    assert [record.levelname for record in caplog.records if "t4 is dropped" in record.message] == ["ERROR"]
    worker.add(KEY, sums_of(Usage(10, 1), 5))
    assert worker.flush()


def test_what_cannot_be_written_is_kept(ready_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed flush loses nothing and counts nothing twice."""
    worker = Rollup(ready_database.engine())
    worker.add(KEY, sums_of(Usage(10, 1), None))
    write = worker._write

    def written_but_unanswered(batch: Any) -> None:
        write(batch)
        raise OSError

    monkeypatch.setattr(worker, "_write", written_but_unanswered)
    assert not worker.flush()
    assert worker.pending_of_token("t") == (11, 0)
    monkeypatch.setattr(worker, "_write", write)
    assert worker.flush()
    assert rows(ready_database) == [(date(2026, 1, 2), "gpt-4o", 1, 10, None)]


def test_workers_that_flush_at_once_lose_nothing(ready_database: Database) -> None:
    """Four workers, the same keys in other orders, thirty batches each: exact sums, whatever had to be tried again."""

    def work(number: int) -> None:
        worker = Rollup(ready_database.engine())
        for turn in range(30):
            models = [f"m{(number + turn + step) % 5}" for step in range(5)]
            for model in models:
                worker.add(KEY._replace(model=model), sums_of(Usage(1, 1), 1))
            if turn % 10 == 0:
                worker.add(KEY, sums_of(Usage(100), 1), once=f"resp_{turn}")
            while not worker.flush():
                time.sleep(0.01)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    found = {model: (requests, tokens, cost) for _, model, requests, tokens, cost in rows(ready_database)}
    assert found == {f"m{number}": (120, 120, 120) for number in range(5)} | {"gpt-4o": (12, 300, 3)}
