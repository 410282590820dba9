"""Fill an empty database with as much as a large installation has: `python -m tools.scale.fill [--tokens N] …`.

The database is the one of the environment (DATABASE_PATH, or DATABASE_URL), as for the server; its schema is made. Rows
are written by bulk INSERT. With the sizes by default: about two minutes and 1.5 GB.
"""

import argparse
import dataclasses
import itertools
import os
import time
from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import Engine, func, insert, select, text

from llm_proxy.db import migrate
from llm_proxy.db.connector import connector_of
from llm_proxy.db.engine import create_engine
from llm_proxy.db.models import (
    AuditRow,
    AuditWriterRow,
    OutcomeRow,
    ProjectRow,
    TokenRow,
    UsageRow,
)
from llm_proxy.settings import load
from tools.scale.rows import Installation, Row, Sizes

BATCH = 2_000  # rows a transaction: the engine ends one that waits for long


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    source = iter(rows)
    while batch := list(itertools.islice(source, BATCH)):
        yield batch


def fill(engine: Engine, made: Installation) -> None:
    """Write every table, in an order that keeps foreign keys. Raises SystemExit where projects are there already."""
    tables: tuple[tuple[Any, Iterator[Row]], ...] = (
        (ProjectRow, made.projects()),
        (TokenRow, made.tokens()),
        (AuditRow, made.audit()),
        (AuditWriterRow, made.writers()),
        (UsageRow, made.usage()),
        (OutcomeRow, made.outcomes()),
    )
    with engine.begin() as connection:
        if connection.execute(select(func.count()).select_from(ProjectRow)).scalar_one():
            raise SystemExit("the database is not empty")
    for model, rows in tables:
        began, written = time.monotonic(), 0
        for batch in _batches(rows):
            with engine.begin() as connection:
                connection.execute(insert(model), batch)
            written += len(batch)
        print(f"{model.__tablename__:18} {written:>9,} rows {time.monotonic() - began:6.1f} s", flush=True)
    _analyze(engine, [model.__tablename__ for model, _ in tables])


def _analyze(engine: Engine, tables: list[str]) -> None:
    """Renew the planner's statistics, as servers do by themselves. SQLite does not."""
    verb = {"mysql": "ANALYZE TABLE {}", "postgresql": "VACUUM (ANALYZE) {}"}.get(connector_of(engine).dialect)
    statements = [] if verb is None else [verb.format(table) for table in tables]
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in statements:
            connection.execute(text(statement)).close()


def main() -> None:
    """Read the sizes and the environment, and fill."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in dataclasses.fields(Sizes):
        parser.add_argument("--" + field.name.replace("_", "-"), type=int, default=field.default)
    sizes = Sizes(**vars(parser.parse_args()))
    engine = create_engine(load(os.environ).settings.storage)
    migrate.up(engine, 60.0)
    fill(engine, Installation(sizes))


if __name__ == "__main__":
    main()
