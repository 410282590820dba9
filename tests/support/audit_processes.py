"""Processes that write audit records side by side."""

import os
import signal
from pathlib import Path
from typing import Any

from llm_proxy.audit.file import AuditFile, memo_of
from llm_proxy.audit.pruning import Pruner
from llm_proxy.audit.record import AuditEvent
from llm_proxy.audit.table import TableChain
from llm_proxy.audit.writer import AuditWriter
from llm_proxy.db.engine import create_engine
from llm_proxy.db.session import write_transaction
from llm_proxy.runtime.clock import utc_now
from llm_proxy.settings import Settings


def write_records(values: dict[str, Any], number: int, go: Any, results: Any) -> None:
    """Write that many records into table and file, each third in a transaction that is rolled back, and tell."""
    settings = Settings.from_paths(values)
    engine = create_engine(settings.storage)
    lost = list[str]()
    writer = AuditWriter.from_settings(engine, settings, lost.append)
    go.wait(60)
    try:
        for n in range(number):
            event = AuditEvent("test.act", "tester", "success", details={"n": n, "pid": os.getpid()})
            if n % 3 == 2:
                _rolled_back(engine, writer, event)
            else:
                writer.record(event)
        writer.close()
        results.put(lost)
    except Exception as error:
        results.put([repr(error)])
    engine.dispose()


def _rolled_back(engine: Any, writer: AuditWriter, event: AuditEvent) -> None:
    with engine.connect() as connection, connection.begin() as transaction:
        writer.record(event, connection)
        transaction.rollback()


def prune_again_and_again(values: dict[str, Any], times: int, go: Any, results: Any) -> None:
    """Prune everything that is there, as another process does it, and tell what was deleted."""
    engine = create_engine(Settings.from_paths(values).storage)
    chain, rows, faults = TableChain(), 0, list[str]()
    go.wait(60)
    try:
        for _ in range(times):
            done = Pruner(engine, chain).prune(utc_now())
            rows += done.rows
            faults += [str(fault) for fault in done.faults]
        results.put((rows, faults))
    except Exception as error:
        results.put((rows, [repr(error)]))
    engine.dispose()


def append_lines(path: str, number: int, max_bytes: int, go: Any, results: Any) -> None:
    """Append that many lines, by ones and threes, to a file that is rotated on the way, and tell."""
    file = AuditFile(Path(path), max_bytes=max_bytes, backups=1000)
    go.wait(60)
    try:
        for n in range(number // 4):
            for many in (1, 3):
                file.append([AuditEvent("test.act", "tester", "success", details={"n": n})] * many)
        results.put([])
    except Exception as error:
        results.put([repr(error)])


def die_in_a_batch(values: dict[str, Any], path: str) -> None:
    """Leave a transaction with records open, write a line that is not remembered and half a line, and be killed."""
    settings = Settings.from_paths(values)
    engine = create_engine(settings.storage)
    writer = AuditWriter.from_settings(engine, settings)
    writer.record(AuditEvent("test.act", "tester", "success"))
    memo = memo_of(Path(path)).read_bytes()
    writer.record(AuditEvent("test.act", "tester", "success", details={"n": 2}))
    memo_of(Path(path)).write_bytes(memo)  # as if killed between the line and the memory of it
    with open(path, "ab") as file:
        file.write(b'{"timestamp":"2026-')
    with write_transaction(engine) as connection:
        writer.chain.append(connection, [AuditEvent("test.act", "tester", "success").row() for _ in range(3)])
        os.kill(os.getpid(), signal.SIGKILL)
