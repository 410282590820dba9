"""The chain of records in the table, on each database: whole under load, every tampering named."""

import multiprocessing
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, delete, func, insert, select, text, update
from support.audit_processes import die_in_a_batch, prune_again_and_again, write_records
from support.databases import Database, on_sqlite

from llm_proxy.audit.chain import Fault, row_hash
from llm_proxy.audit.pruning import Pruner, count
from llm_proxy.audit.record import AuditEvent
from llm_proxy.audit.rows import head
from llm_proxy.audit.table import TableChain
from llm_proxy.audit.verify import Report, verify_table
from llm_proxy.audit.writer import AuditWriter
from llm_proxy.db import migrate
from llm_proxy.db.errors import WouldLoseData
from llm_proxy.db.models import AuditRow, AuditWriterRow
from llm_proxy.db.session import read_transaction, write_transaction

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
_SPAWN = multiprocessing.get_context("spawn")
_TABLE: Any = AuditRow.__table__


def _event(days: float = 0, **values: Any) -> AuditEvent:
    details = {"http_method": "GET", "endpoint": "/x", "user_agent": "ü😀", "reason": "r ", "token_id": "t"}
    known = {"project_id": "p", "request_id": "r", "correlation_id": "c", "client_ip": "::1", "details": details}
    who = {"action": "test.act", "actor": "tester", "outcome": "success", "timestamp": NOW - timedelta(days=days)}
    return AuditEvent(**{**who, **known, **values})


def _filled(engine: Engine, number: int = 5) -> str:
    """Records of one writer; its name."""
    writer = AuditWriter(table=engine)
    for _ in range(number):
        writer.record(_event())
    return writer.chain.writer


def _fault(engine: Engine) -> tuple[str, str, int] | None:
    """Kind, writer and number of the only fault."""
    faults = verify_table(engine).faults
    assert len(faults) <= 1, faults
    return (faults[0].kind, faults[0].writer, faults[0].seq) if faults else None


@contextmanager
def _tampered(engine: Engine, table: Any, name: str, **values: Any) -> Iterator[None]:
    """Columns of a row are other ones for a while; `seq` chooses the record."""
    seq = values.pop("at", None)
    mine = [table.c.writer == name] + ([] if seq is None else [table.c.seq == seq])
    with write_transaction(engine) as connection:
        before = dict(connection.execute(select(table).where(*mine)).mappings().one())
        connection.execute(update(table).where(*mine).values(values))
    yield
    after = {**before, **values}
    mine = [table.c[key] == after[key] for key in ("writer", "seq") if key in after]
    with write_transaction(engine) as connection:
        connection.execute(update(table).where(*mine).values({key: before[key] for key in values}))


def _undone(engine: Engine, writer: AuditWriter) -> None:
    """A transaction with two records that is rolled back."""
    with engine.connect() as connection, connection.begin() as transaction:
        writer.record(_event(), connection)
        writer.record(_event(), connection)
        transaction.rollback()


def test_records_come_back_as_they_were_hashed(engine: Engine) -> None:
    """Whatever characters, lengths and instants: what is read has the hash of what was written."""
    writer = AuditWriter(table=engine)
    odd = "é\u2028😀'\"\\\x7f\ufffe"
    writer.record(_event(timestamp=datetime(1999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), project_id=odd * 9))
    writer.record(_event(request_id="x" * 500, client_ip="\x00\ud800", details={"error": odd * 9000, "n": [1.5, None]}))
    writer.record(AuditEvent("a", "b", "denied", timestamp=datetime(2026, 1, 1, tzinfo=UTC)))
    writer.record(_event(timestamp=datetime(2026, 1, 1, 5, 30, tzinfo=UTC).astimezone(), details={"reason": " "}))
    report = verify_table(engine)
    assert (report.faults, report.records, report.writers) == ([], 4, 1)


def test_each_changed_column_is_named(engine: Engine) -> None:
    """Any column of any record, set to another value or to null, is a changed record with its number."""
    writer = _filled(engine)
    others: dict[str, Any] = {
        "id": "other", "timestamp": NOW + timedelta(microseconds=1), "outcome": "denied", "prev_hash": "1" * 64,
        "hash": "1" * 64,
    }  # fmt: skip
    for column in _TABLE.c:
        if column.name in ("writer", "seq"):
            continue
        values = [others.get(column.name, "other")] + ([None] if column.nullable else [])
        for value in values:
            for seq in (1, 3, 5):
                with _tampered(engine, _TABLE, writer, at=seq, **{column.name: value}):
                    assert _fault(engine) == ("changed record", writer, seq), (column.name, value, seq)
    assert _fault(engine) is None


def test_a_record_under_another_number_or_writer_is_missing(engine: Engine) -> None:
    """Taking a record out of its chain is a missing record; one of an unknown writer is named as such."""
    writer = _filled(engine)
    with _tampered(engine, _TABLE, writer, at=2, seq=9):
        assert _fault(engine) == ("changed writer", writer, 6)
    with _tampered(engine, _TABLE, writer, at=2, seq=None):
        assert _fault(engine) == ("missing record", writer, 2)
    with _tampered(engine, _TABLE, writer, at=2, writer="nobody"):
        kinds = {(fault.kind, fault.writer, fault.seq) for fault in verify_table(engine).faults}
        assert kinds == {("missing record", writer, 2), ("unknown writer", "nobody", 2)}
    assert _fault(engine) is None


@pytest.mark.parametrize(
    ("gone", "kind", "first"),
    [([1], "missing record", 1), ([3], "missing record", 3), ([2, 3], "missing record", 2), ([5], "missing tail", 5),
     ([4, 5], "missing tail", 4), ([1, 2, 3, 4, 5], "missing tail", 1)],
)  # fmt: skip
def test_deleted_records_are_named(engine: Engine, gone: list[int], kind: str, first: int) -> None:
    """At the head, in the middle, at the end, or all: the first that is missing is named."""
    writer = _filled(engine)
    with write_transaction(engine) as connection:
        connection.execute(delete(AuditRow).where(AuditRow.seq.in_(gone)))
    assert _fault(engine) == (kind, writer, first)


def test_a_record_with_a_new_hash_is_named(engine: Engine) -> None:
    """Changed and hashed again: the record after it, or the writer's row, knows another hash."""
    writer = _filled(engine)
    for seq in (1, 3, 5):
        with read_transaction(engine) as connection:
            row = dict(connection.execute(select(_TABLE).where(_TABLE.c.seq == seq)).mappings().one())
        changed = {**row, "actor": "nobody"}
        with _tampered(engine, _TABLE, writer, at=seq, actor="nobody", hash=row_hash(changed)):
            assert _fault(engine) == ("changed record", writer, seq)
    assert _fault(engine) is None


def test_a_changed_writers_row_is_named(engine: Engine) -> None:
    """Each of its columns, and the row itself."""
    writer = _filled(engine)
    table = AuditWriterRow.__table__
    for values, wanted in (
        ({"last_seq": 4}, ("changed writer", writer, 5)),
        ({"last_seq": 6}, ("missing tail", writer, 6)),
        ({"last_hash": "1" * 64}, ("changed record", writer, 5)),
        ({"removed_seq": 2}, ("changed writer", writer, 1)),
        ({"removed_seq": 5}, ("changed writer", writer, 5)),
        ({"removed_hash": "1" * 64}, ("changed writer", writer, 1)),
    ):
        with _tampered(engine, table, writer, **values):
            assert _fault(engine) == wanted, values
    assert _fault(engine) is None
    with write_transaction(engine) as connection:
        connection.execute(delete(AuditWriterRow))
    assert _fault(engine) == ("unknown writer", writer, 1)


def test_a_record_below_the_first_is_named(engine: Engine) -> None:
    """A row that was put in under a number that is never given out is no part of the chain."""
    writer = _filled(engine)
    for seq in (0, -5):
        forged = {"id": "f", "timestamp": NOW, "action": "a", "actor": "b", "outcome": "success"}
        with write_transaction(engine) as connection:
            connection.execute(insert(_TABLE).values(**forged, writer=writer, seq=seq, hash="1" * 64))
        assert _fault(engine) == ("changed record", writer, seq)
        with write_transaction(engine) as connection:
            connection.execute(delete(_TABLE).where(_TABLE.c.id == "f"))
    assert _fault(engine) is None


@on_sqlite
def test_junk_in_place_of_a_number_is_named(engine: Engine) -> None:
    """SQLite stores any text there: a fault of that chain, not of the command."""
    writer = _filled(engine)
    writers = AuditWriterRow.__table__
    with _tampered(engine, _TABLE, writer, at=3, seq="x"):
        assert _fault(engine) == ("changed record", writer, 6)
    for column in ("last_seq", "removed_seq"):
        with _tampered(engine, writers, writer, **{column: "x"}):
            assert _fault(engine) == ("changed writer", writer, 1)
    assert _fault(engine) is None


@on_sqlite
def test_junk_in_a_time_column_is_a_changed_record(engine: Engine) -> None:
    """What is no instant any more is named, not stumbled over; only SQLite takes such a thing."""
    writer = _filled(engine)
    with write_transaction(engine) as connection:
        connection.execute(text("UPDATE audit_events SET timestamp = 'junk' WHERE seq = 3"))
    assert _fault(engine) == ("changed record", writer, 3)


def test_records_from_before_the_chain_are_counted(engine: Engine) -> None:
    """They are no fault; how many there are, and of when the newest is, is said."""
    with write_transaction(engine) as connection:
        connection.execute(insert(AuditRow), [_event(days).row() for days in (3, 2)])
    _filled(engine)
    report = verify_table(engine)
    assert (report.faults, report.records, report.without_chain) == ([], 5, 2)
    assert report.newest_without_chain == NOW - timedelta(days=2)


def test_what_is_rolled_back_leaves_no_gap(engine: Engine) -> None:
    """A mutation that fails after its record, or a record that is refused, takes no number."""
    writer = AuditWriter(table=engine)
    writer.record(_event())
    _undone(engine, writer)
    with write_transaction(engine) as connection:
        writer.record(_event(outcome="junk"), connection)  # the table's check refuses it
        writer.record(_event(), connection)
    with read_transaction(engine) as connection:
        assert list(connection.execute(select(AuditRow.seq).order_by(AuditRow.seq)).scalars()) == [1, 2]
    assert _fault(engine) is None


def test_the_first_record_may_be_rolled_back(engine: Engine) -> None:
    """The writer's row goes with it, and comes with the next record."""
    writer = AuditWriter(table=engine)
    _undone(engine, writer)
    report = verify_table(engine)
    assert (report.writers, report.faults) == (0, [])
    writer.record(_event())
    assert (verify_table(engine).records, _fault(engine)) == (1, None)


def test_transactions_of_one_worker_take_turns(ready_database: Database) -> None:
    """Twelve threads with transactions of their own share one chain: no number twice, none missing, none refused."""
    engine, lost = ready_database.engine(), list[str]()
    writer = AuditWriter(table=engine, failed=lost.append)

    def work() -> None:
        for _ in range(10):
            with write_transaction(engine) as connection:
                writer.record(_event(), connection)

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    report = verify_table(engine)
    assert (report.faults, report.records, report.writers, lost) == ([], 120, 1, [])


def _race(database: Database, *workers: tuple[Any, ...]) -> list[Any]:
    """Run processes at once; while they do, verifying finds nothing. What they tell."""
    go, results, engine = _SPAWN.Event(), _SPAWN.Queue(), database.engine()
    racers = [_SPAWN.Process(target=work, args=(*args, go, results)) for work, *args in workers]
    for racer in racers:
        racer.start()
    go.set()
    while any(racer.is_alive() for racer in racers) and results.qsize() < len(racers):
        assert verify_table(engine).faults == []
    found = [results.get(timeout=60) for _ in racers]
    for racer in racers:
        racer.join(30)
    assert verify_table(engine).faults == []
    return found


def test_eight_processes_write_whole_chains(ready_database: Database) -> None:
    """Each has its own chain; what they roll back is no gap, and verifying meanwhile raises no false alarm."""
    values = {**ready_database.values, "operation.audit_log_file": ""}
    found = _race(ready_database, *[(write_records, values, 30)] * 8)
    report = verify_table(ready_database.engine())
    assert (found, report.records, report.writers) == ([[]] * 8, 8 * 20, 8)


def test_a_migration_down_makes_records_of_before_the_chain(database: Database) -> None:
    """The step names what it drops; afterwards, and up again, the records are there and claim nothing."""
    engine = database.migrated()
    _filled(engine)
    while migrate.status(engine).version > 5:
        migrate.down(engine, 5)
    with pytest.raises(WouldLoseData, match="audit_writers"):
        migrate.down(engine, 5)
    assert migrate.down(engine, 5, may_lose_data=True) == 4
    migrate.up(engine, 30)
    report = verify_table(engine)
    assert (report.faults, report.records, report.without_chain) == ([], 0, 5)
    _filled(engine, 2)
    assert verify_table(engine).records == 2


def test_pruning_races_with_writers_and_with_itself(ready_database: Database) -> None:
    """Two processes prune and four write: every record is deleted once or still there, and every chain is whole."""
    values = {**ready_database.values, "operation.audit_log_file": ""}
    found = _race(
        ready_database, *[(write_records, values, 60)] * 4, *[(prune_again_and_again, values, 12)] * 2
    )  # fmt: skip
    pruned = [told for told in found if isinstance(told, tuple)]
    assert [told[1] for told in pruned] == [[], []]
    assert [told for told in found if told == []] == [[]] * 4
    with read_transaction(ready_database.engine()) as connection:
        rows = select(AuditRow.action, func.count()).group_by(AuditRow.action)
        left = {row.action: row[1] for row in connection.execute(rows)}
    assert sum(told[0] for told in pruned) >= 4 * 40 - left.get("test.act", 0)


def test_pruning_leaves_anchors_that_agree(engine: Engine) -> None:
    """All up to the first young record goes, an old one behind a young one stays; row and anchor say the same."""
    writer = AuditWriter(table=engine)
    for days in (100, 99, 5, 98, 1):
        writer.record(_event(days))
    name, pruner = writer.chain.writer, AuditWriter(table=engine).chain
    before = NOW - timedelta(days=90)
    assert count(engine, before) == 2
    assert Pruner(engine, pruner).prune(before).rows == 2
    with read_transaction(engine) as connection:
        known = head(connection, name)
        anchor = connection.execute(select(_TABLE).where(_TABLE.c.action == "audit.anchor")).mappings().one()
    assert known is not None
    assert (known.removed.seq, known.last.seq) == (2, 5)
    assert (anchor["writer"], anchor["seq"], anchor["correlation_id"]) == (pruner.writer, 1, name)
    assert known.removed.hash in anchor["metadata"]
    assert _fault(engine) is None
    with _tampered(engine, AuditWriterRow.__table__, name, removed_seq=1):
        assert _fault(engine) == ("changed writer", name, 2)
    with _tampered(engine, AuditWriterRow.__table__, name, removed_hash="1" * 64):
        assert _fault(engine) == ("changed writer", name, 3)
    with write_transaction(engine) as connection:
        connection.execute(delete(AuditRow).where(AuditRow.writer == name, AuditRow.seq == 3))
    assert _fault(engine) == ("missing record", name, 3)


def test_pruning_goes_by_batches_and_ends_what_is_silent(engine: Engine) -> None:
    """2,100 records of a writer that has ended go in three transactions, and so does its row; the anchor says so."""
    old = TableChain()
    with write_transaction(engine) as connection:
        old.append(connection, [_event(10).row() for _ in range(2100)])
    seen: list[int] = []
    pruner = TableChain()
    assert Pruner(engine, pruner, progress=seen.append).prune(NOW).rows == 2100
    assert seen == [1000, 1000, 100]
    with read_transaction(engine) as connection:
        assert list(connection.execute(select(AuditWriterRow.writer)).scalars()) == [pruner.writer]
    report = verify_table(engine)
    assert (report.faults, report.records) == ([], 3)
    assert verify_table(engine, {old.writer: head_of(2100)}).faults == []
    [fault] = verify_table(engine, {"gone": head_of(7)}).faults
    assert (fault.kind, fault.writer, fault.seq) == ("missing chain", "gone", 7)


def head_of(seq: int) -> Any:
    """A place that an earlier report named."""
    from llm_proxy.audit.chain import Link

    return Link(seq, "0" * 64)


def test_a_writer_that_was_ended_takes_another_name(engine: Engine) -> None:
    """A worker that was silent until all of it was pruned goes on under a new name: no number is given out twice."""
    clock = [0.0]
    chain = TableChain(clock=lambda: clock[0])
    with write_transaction(engine) as connection:
        chain.append(connection, [_event(100).row()])
    before = chain.writer
    Pruner(engine, TableChain()).prune(NOW)
    clock[0] = 3600.0
    with write_transaction(engine) as connection:
        chain.append(connection, [_event().row()])
    assert chain.writer != before
    assert _fault(engine) is None


def test_anchors_that_hold_still_are_carried_along(engine: Engine) -> None:
    """When the anchor itself grows old, a new one is written, so that the row never stands alone."""
    writer, first, second = AuditWriter(table=engine), TableChain(), TableChain()
    for days in (100, -20):
        writer.record(_event(days))
    Pruner(engine, first).prune(NOW - timedelta(days=90))
    with write_transaction(engine) as connection:  # the anchor is as old as the prune that wrote it would be
        anchor = connection.execute(select(_TABLE).where(_TABLE.c.action == "audit.anchor")).mappings().one()
        row = {**anchor, "timestamp": NOW - timedelta(days=5)}
        row["hash"] = row_hash(row)
        connection.execute(
            update(AuditRow).where(AuditRow.id == row["id"]).values(timestamp=row["timestamp"], hash=row["hash"])
        )
        connection.execute(
            update(AuditWriterRow).where(AuditWriterRow.writer == first.writer).values(last_hash=row["hash"])
        )
    assert _fault(engine) is None
    Pruner(engine, second, now=lambda: NOW + timedelta(days=10)).prune(NOW)
    assert _fault(engine) is None
    with read_transaction(engine) as connection:
        anchors = connection.execute(
            select(AuditRow.writer, AuditRow.correlation_id).where(AuditRow.action == "audit.anchor")
        )
        assert {tuple(row) for row in anchors} == {(second.writer, writer.chain.writer), (second.writer, first.writer)}


def test_pruning_never_tidies_a_fault_away(engine: Engine) -> None:
    """It stops before the first fault and says so; asked to, it goes on, and the rest is whole."""
    writer = AuditWriter(table=engine)
    for _ in range(6):
        writer.record(_event(100))
    writer.record(_event())
    name = writer.chain.writer
    with write_transaction(engine) as connection:
        connection.execute(delete(AuditRow).where(AuditRow.seq == 3))
    chain = TableChain()
    done = Pruner(engine, chain).prune(NOW - timedelta(days=90))
    assert (done.rows, [(fault.kind, fault.seq) for fault in done.faults]) == (2, [("missing record", 3)])
    assert _fault(engine) == ("missing record", name, 3)
    done = Pruner(engine, chain, past_faults=True).prune(NOW - timedelta(days=90))
    assert (done.rows, done.faults, _fault(engine)) == (3, [], None)


def test_past_faults_also_ends_what_has_no_end(engine: Engine) -> None:
    """A tail that is missing, and records whose writer is unknown, are gone when that was asked for."""
    first, second = TableChain(), TableChain()
    with write_transaction(engine) as connection:
        first.append(connection, [_event(100).row() for _ in range(3)])
        second.append(connection, [_event(100).row() for _ in range(3)])
        connection.execute(delete(AuditRow).where(AuditRow.writer == first.writer, AuditRow.seq == 3))
        connection.execute(delete(AuditWriterRow).where(AuditWriterRow.writer == second.writer))
    chain = TableChain()
    Pruner(engine, chain).prune(NOW)
    assert len(verify_table(engine).faults) == 2
    Pruner(engine, chain, past_faults=True).prune(NOW)
    report = verify_table(engine)
    assert (report.faults, list(report.ends)) == ([], [chain.writer])


def test_a_tampered_writers_row_stops_no_record(engine: Engine) -> None:
    """When the numbers that come next are taken, a new chain begins, and the old one stays broken."""
    lost: list[str] = []
    writer = AuditWriter(table=engine, failed=lost.append)
    for _ in range(3):
        writer.record(_event())
    name = writer.chain.writer
    with write_transaction(engine) as connection:
        connection.execute(update(AuditWriterRow).values(last_seq=1))
    with write_transaction(engine) as connection:
        writer.record(_event(), connection)
    assert (lost, writer.chain.writer != name) == ([], True)
    assert _fault(engine) == ("changed writer", name, 2)


def test_what_was_kept_elsewhere_shows_a_chain_made_again(engine: Engine) -> None:
    """An attacker rewrites a chain and its row so that all hashes fit: an earlier report still tells."""
    writer = _filled(engine)
    known = verify_table(engine).ends
    with write_transaction(engine) as connection:
        connection.execute(delete(AuditRow))
        connection.execute(delete(AuditWriterRow))
    assert [fault.kind for fault in verify_table(engine, known).faults] == ["missing chain"]
    forger = TableChain()
    forger.renew()
    forger._writer = writer
    with write_transaction(engine) as connection:
        forger.append(connection, [_event(actor="nobody").row() for _ in range(6)])
    assert _fault(engine) is None
    [fault] = verify_table(engine, known).faults
    assert isinstance(fault, Fault)
    assert (fault.kind, fault.seq) == ("changed record", 5)


def test_who_is_killed_in_a_batch_breaks_nothing(ready_database: Database, tmp_path: Any) -> None:
    """Its open transaction leaves no gap; the next line of the file continues what was really written."""
    from llm_proxy.audit.file_heads import file_heads
    from llm_proxy.audit.verify_file import verify_file

    path = tmp_path / "audit.log"
    values = {**ready_database.values, "operation.audit_log_file": str(path)}
    victim = _SPAWN.Process(target=die_in_a_batch, args=(values, str(path)))
    victim.start()
    victim.join(60)
    assert victim.exitcode == -9
    engine = ready_database.engine()
    with read_transaction(engine) as connection:
        known = file_heads(connection)
    report: Report = verify_file([path], known)
    assert [(fault.kind, fault.seq) for fault in report.faults] == [("changed record", 3)]  # half a line
    writer = AuditWriter.from_settings(engine, ready_database.settings({"operation.audit_log_file": str(path)}))
    writer.record(_event())
    with read_transaction(engine) as connection:
        known = file_heads(connection)
    report = verify_file([path], known)
    assert (report.faults, report.records, report.unreadable) == ([], 3, 1)
    table = verify_table(engine)
    assert (table.faults, table.records) == ([], 3)
