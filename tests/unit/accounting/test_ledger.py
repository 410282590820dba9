"""The ledger's file: locked before it has a name, held by one process, never taken for what it is not."""

import fcntl
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm_proxy.accounting import ledger
from llm_proxy.accounting.ledger import LAST, SPENT, DeadLedger, Ledger
from llm_proxy.settings import Settings, TokenSettings


def test_what_was_noted_can_be_read(tmp_path: Path) -> None:
    """Token, lease, units and time of each slot in use, by others while the owner lives, by another worker after."""
    own = Ledger.create(tmp_path)
    first, second = own.occupy("a" * 36, 7), own.occupy("b", 2**63 - 1)
    assert first is not None
    assert second is not None
    own.ints[first + SPENT] += 3
    own.floats[first + LAST] = 12.5
    own.clear(second)
    seen = ledger.read(own.path)
    assert [(slot.token_id, slot.lease, slot.spent, slot.last_used_s) for slot in seen] == [("a" * 36, 7, 3, 12.5)]
    assert DeadLedger.take(own.path) is None
    own.release()
    dead = DeadLedger.take(own.path)
    assert dead is not None
    assert dead.noted() == seen
    dead.remove()
    assert list(ledger.files(tmp_path)) == []


def test_its_room_is_really_there(tmp_path: Path) -> None:
    """No hole in the file: a store into one on a full disk would be SIGBUS. For the owner alone."""
    own = Ledger.create(tmp_path / "made")
    status = own.path.stat()
    assert status.st_blocks * 512 >= status.st_size == 64 + ledger.SLOTS * 64
    assert (status.st_mode & 0o777, (tmp_path / "made").stat().st_mode & 0o777) == (0o600, 0o700)
    own.remove()


def test_a_ledger_in_memory_moves_to_its_disk(tmp_path: Path) -> None:
    """Where the disk had no room: what is noted stays, and others read it from the file."""
    own = Ledger.create_in_memory(tmp_path / "made")
    at = own.occupy("a", 7)
    assert at is not None
    own.ints[at + SPENT] = 3
    assert not own.path.parent.exists()
    own.move_to_disk()
    own.ints[at + SPENT] += 1
    assert [(slot.token_id, slot.lease, slot.spent) for slot in ledger.read(own.path)] == [("a", 7, 4)]
    assert DeadLedger.take(own.path) is None
    own.remove()
    assert list(ledger.files(tmp_path / "made")) == []


def test_a_ledger_that_cannot_be_mapped_on_its_disk_stays_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A try that fails leaves neither a file nor a descriptor; there is one every two seconds."""
    own = Ledger.create_in_memory(tmp_path)
    at = own.occupy("a", 7)
    assert at is not None

    def refuse(descriptor: int, size: int) -> Any:
        raise OSError("no memory")

    monkeypatch.setattr(ledger, "map_descriptor", refuse)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="no memory"):
        own.move_to_disk()
    assert len(os.listdir("/proc/self/fd")) == before
    assert (own.is_in_memory, list(tmp_path.iterdir())) == (True, [])
    own.ints[at + SPENT] += 1
    own.remove()


def test_slots_are_used_again_and_end(tmp_path: Path) -> None:
    """16,384 at once; a freed one is taken again, with nothing of its last user."""
    own = Ledger.create(tmp_path)
    taken = [own.occupy(str(n), n + 1) for n in range(ledger.SLOTS)]
    assert None not in taken
    assert len(set(taken)) == ledger.SLOTS
    assert own.occupy("more", 1) is None
    at = taken[17]
    assert at is not None
    own.ints[at + SPENT] = 9
    own.clear(at)
    assert own.occupy("more", 5) == at
    assert own.ints[at + SPENT] == 0
    own.remove()


def test_it_has_no_name_before_it_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that looks at any moment finds it locked, or not at all; a failed creation leaves nothing."""
    lock, rename, seen = fcntl.flock, os.rename, list[str]()

    def noted(name: str, function: Any) -> Callable[..., Any]:
        def run(*call: Any) -> Any:
            seen.append(name)
            return function(*call)

        return run

    monkeypatch.setattr(fcntl, "flock", noted("lock", lock))
    monkeypatch.setattr(os, "rename", noted("name", rename))
    Ledger.create(tmp_path).remove()
    assert seen == ["lock", "name"]

    def full(*call: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        Ledger.create(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    """The owner ends while a child that it forked lives on: the ledger can be taken."""
    own = Ledger.create(tmp_path)
    theirs, ours = multiprocessing.Pipe()
    child = os.fork()
    if child == 0:
        theirs.send("forked")
        theirs.recv()
        os._exit(0)
    try:
        assert ours.recv() == "forked"
        own.release()
        dead = DeadLedger.take(own.path)
        assert dead is not None
        dead.remove()
    finally:
        ours.send(1)
        os.waitpid(child, 0)
        theirs.close()
        ours.close()


def test_another_layout_is_neither_settled_nor_removed(tmp_path: Path) -> None:
    """A file of a version that writes otherwise, or that is cut off."""
    own = Ledger.create(tmp_path)
    own.bytes[8] = 99
    own.release()
    cut = tmp_path / "cut.ledger"
    cut.write_bytes(b"llmproxy")
    for path in (own.path, cut):
        assert DeadLedger.take(path) is None
        assert ledger.read(path) == []
        assert path.exists()


def test_what_another_boot_left_goes_after_a_day(tmp_path: Path) -> None:
    """Its page cache may be older than the provider's log: never read, and kept for a day; this host's never is."""
    ours, theirs = ledger.folder_of(tmp_path, "database"), tmp_path / "database" / "another-boot"
    own, old = Ledger.create(ours), Ledger.create(theirs)
    hidden = ours / "left.new"
    hidden.touch()
    old.release()
    ledger.sweep(ours)
    assert old.path.exists()
    assert hidden.exists()
    ledger.sweep(ours, time.time() + ledger.KEPT_S + 60)
    assert not theirs.exists()
    assert not hidden.exists()
    assert own.path.exists()
    assert list(ledger.files(theirs)) == []
    own.remove()


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({}, "data/ledger"),
        ({"storage.path": "/x/y.db"}, "/x/ledger"),
        ({"storage.path": ":memory:", "operation.audit_log_file": "/a/audit.log"}, "/a/ledger"),
        (
            {"storage.db_driver": "postgres", "storage.url": "postgres://h/d", "operation.audit_log_file": "/a/b.log"},
            "/a/ledger",
        ),
        ({"tokens.ledger_dir": Path("/l")}, "/l"),
    ],
)
def test_its_folder_is_the_documented_one(values: dict[str, object], wanted: str) -> None:
    """Beside the SQLite file, else in AUDIT_LOG_FILE's folder, else in ./data."""
    assert ledger.root_of(Settings.from_paths(values)) == Path(wanted)


def test_a_folder_that_cannot_be_written_is_a_fault(tmp_path: Path) -> None:
    """One line that names the variable; nothing is made."""
    (tmp_path / "file").touch()
    assert ledger.fault(Settings(tokens=TokenSettings(ledger_dir=tmp_path / "a" / "b"))) is None
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
    said = ledger.fault(Settings(tokens=TokenSettings(ledger_dir=tmp_path / "file" / "b")))
    assert said is not None
    assert said.startswith("LEDGER_DIR=")
