"""The whole proxy, with each round trip to the database counted in a metric of the scrape."""

from typing import Any

from prometheus_client import Counter
from sqlalchemy import Engine, event

from llm_proxy.app import create_app
from llm_proxy.db.raw import RawConnectionPool

TRIPS = Counter("bench_database_round_trips", "Statements, and ends of transactions.")


def _count(*about: Any) -> None:
    TRIPS.inc()


class _Counting(RawConnectionPool):
    """What the hot path and the beat ask."""

    def _run(self, *arguments: Any, **options: Any) -> Any:
        _count()
        return _run(self, *arguments, **options)

    def batch(self, statements: Any) -> list[int]:
        TRIPS.inc(len(statements) + 2)
        return _batch(self, statements)


_run, _batch = RawConnectionPool._run, RawConnectionPool.batch
RawConnectionPool._run, RawConnectionPool.batch = _Counting._run, _Counting.batch  # type: ignore[method-assign]
for end in ("before_cursor_execute", "commit", "rollback"):
    event.listen(Engine, end, _count)
app = create_app()
