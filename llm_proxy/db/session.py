"""Transactions: one that reads, one that writes; both end with their block."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine

from llm_proxy.db.engine import READS


@contextmanager
def read_transaction(engine: Engine) -> Iterator[Connection]:
    """Open a connection whose transaction only reads; nothing waits for it on SQLite."""
    with engine.connect() as connection, connection.execution_options(**{READS: True}).begin():
        yield connection


@contextmanager
def write_transaction(engine: Engine) -> Iterator[Connection]:
    """Open a connection whose transaction is committed at the end of the block, or rolled back by an exception."""
    with engine.connect() as connection, connection.begin():
        yield connection
