"""events.spool: order, bound, crashes and what a dead worker leaves behind."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from llm_proxy.events.spool import Spool, SpoolFull, spool_folder
from llm_proxy.settings import EventSettings, OperationSettings, Settings, StorageSettings

MB = 1024 * 1024


def drained(spool: Spool, most: int = 100) -> list[bytes]:
    """Everything, in the order of replay."""
    found = []
    while records := spool.peek(most, MB):
        found += records
        spool.advance()
    return found


def records(count: int, size: int = 100) -> list[bytes]:
    """Numbered records."""
    return [b"%06d" % n + b"x" * size for n in range(count)]


def used_bytes(folder: Path) -> int:
    """What all segments take or have promised."""
    return sum(path.stat().st_size for path in folder.glob("*.seg"))


def test_records_come_back_in_order_over_many_segments(tmp_path: Path) -> None:
    """FIFO, whatever the batches."""
    spool = Spool(tmp_path / "spool", 4 * MB)
    expected = records(5000, 300)
    for record in expected:
        spool.append(record)
    assert len(list((tmp_path / "spool").glob("*.seg"))) > 3
    assert drained(spool, most=7) == expected
    assert spool.is_empty
    assert used_bytes(tmp_path / "spool") == 0


def test_a_batch_is_put_back_in_front(tmp_path: Path) -> None:
    """What failed on its way stays the oldest."""
    spool = Spool(tmp_path, 4 * MB)
    for record in (b"c", b"d"):
        spool.append(record)
    spool.put_back([b"a", b"b"])
    assert drained(spool) == [b"a", b"b", b"c", b"d"]


def test_what_is_appended_during_replay_comes_last(tmp_path: Path) -> None:
    """Replay and new events interleave without mixing."""
    spool = Spool(tmp_path, 4 * MB)
    spool.append(b"a")
    assert spool.peek(10, MB) == [b"a"]
    spool.append(b"b")
    spool.advance()
    assert drained(spool) == [b"b"]


def test_the_bound_holds_for_all_workers_together(tmp_path: Path) -> None:
    """Two workers fill the folder in turns: never more than the bound, and both find it full."""
    spools = [Spool(tmp_path, 2 * MB), Spool(tmp_path, 2 * MB)]
    kept = 0
    full = 0
    for n in range(8000):
        try:
            spools[n % 2].append(b"x" * 500)
            kept += 1
        except SpoolFull:
            full += 1
        assert n % 50 or used_bytes(tmp_path) <= 2 * MB
    assert full
    assert kept > 2 * MB * 0.9 // 516
    assert sum(len(drained(spool)) for spool in spools) == kept


def test_room_is_there_again_after_a_replay(tmp_path: Path) -> None:
    """Full is not permanently."""
    spool = Spool(tmp_path, MB)
    for record in records(900, 1000):
        spool.append(record)
    with pytest.raises(SpoolFull):
        spool.append(b"x" * MB)
    drained(spool)
    spool.append(b"again")
    assert drained(spool) == [b"again"]


def test_a_record_larger_than_a_segment_has_one_of_its_own(tmp_path: Path) -> None:
    """An event of 1 MiB in a spool of 2."""
    spool = Spool(tmp_path, 2 * MB)
    spool.append(b"y" * MB)
    assert drained(spool) == [b"y" * MB]


def test_files_are_private(tmp_path: Path) -> None:
    """0600, in a folder that is 0700: events hold prompts."""
    spool = Spool(tmp_path / "spool", MB)
    spool.append(b"a")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "spool").iterdir()}
    assert modes == {0o600}
    assert stat.S_IMODE((tmp_path / "spool").stat().st_mode) == 0o700


def test_a_clean_end_leaves_the_rest_for_the_next(tmp_path: Path) -> None:
    """Half replayed, closed, taken up: the other half, once."""
    first = Spool(tmp_path, 4 * MB)
    for record in records(10):
        first.append(record)
    first.peek(4, MB)
    first.advance()
    first.close()
    second = Spool(tmp_path, 4 * MB)
    assert second.adopt() == 1
    assert drained(second) == records(10)[4:]
    assert not list(tmp_path.glob("*.seg"))


def test_a_living_workers_segments_are_left_alone(tmp_path: Path) -> None:
    """Its lock is held."""
    living = Spool(tmp_path, 4 * MB)
    living.append(b"a")
    assert Spool(tmp_path, 4 * MB).adopt() == 0


WRITER = """
import os, signal, sys
from pathlib import Path
from llm_proxy.events.spool import Spool
spool = Spool(Path(sys.argv[1]), 8 * 1024 * 1024)
for n in range(int(sys.argv[2])):
    spool.append(b"%06d" % n + b"x" * 100)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_workers_segments_are_taken_up_once(tmp_path: Path) -> None:
    """kill -9: the first to come gets them all, in order; the second nothing."""
    subprocess.run([sys.executable, "-c", WRITER, str(tmp_path), "3000"], check=False)
    heirs = [Spool(tmp_path, 8 * MB), Spool(tmp_path, 8 * MB)]
    assert [heir.adopt() for heir in heirs] == [1, 0]
    assert drained(heirs[0]) == records(3000)


def test_half_a_record_at_the_end_is_dropped_alone(tmp_path: Path) -> None:
    """A crash inside a write: the records before it are there."""
    first = Spool(tmp_path, 4 * MB)
    for record in records(10):
        first.append(record)
    first.close()
    segment = next(tmp_path.glob("*.seg"))
    os.truncate(segment, segment.stat().st_size - 30)
    heir = Spool(tmp_path, 4 * MB)
    heir.adopt()
    assert drained(heir) == records(10)[:9]


@pytest.mark.parametrize("at", range(0, 300, 7))
def test_a_flipped_byte_never_raises(tmp_path: Path, at: int) -> None:
    """Damage costs the records from there on, not the worker."""
    first = Spool(tmp_path, MB)
    for record in records(3, 80):
        first.append(record)
    first.close()
    segment = next(tmp_path.glob("*.seg"))
    data = bytearray(segment.read_bytes())
    data[at % len(data)] ^= 0xFF
    segment.write_bytes(data)
    heir = Spool(tmp_path, MB)
    heir.adopt()
    assert all(record in records(3, 80) for record in drained(heir))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Settings(), "data/spool"),
        (Settings(events=EventSettings(spool_dir="")), None),
        (Settings(events=EventSettings(spool_dir="/x/y")), "/x/y"),
        (
            Settings(
                storage=StorageSettings(db_driver="postgres", url="postgres://h/d"),
                operation=OperationSettings(audit_log_file="/var/a.log"),
            ),
            "/var/spool",
        ),
        (
            Settings(
                storage=StorageSettings(db_driver="postgres", url="postgres://h/d"),
                operation=OperationSettings(audit_log_file=""),
            ),
            "data/spool",
        ),
    ],
)
def test_where_the_spool_is(settings: Settings, expected: str | None) -> None:
    """Beside the database file, else the audit file, else ./data; empty means none."""
    found = spool_folder(settings)
    assert (str(found) if found else None) == expected
