"""Append-only files: whole lines under a name, whatever happens to the file or its disk."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from llm_proxy.runtime import append_file
from llm_proxy.runtime.append_file import AppendFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file in a folder that is not there yet."""
    return tmp_path / "folder" / "lines"


def test_the_file_has_its_mode_and_its_folder_is_made(path: Path) -> None:
    """Whatever the folder was."""
    AppendFile(path, mode=0o600).write(b"a\n")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"a\n", 0o600)


def test_a_file_that_was_renamed_or_removed_is_left_behind(path: Path) -> None:
    """Lines go to the file that has the name."""
    file = AppendFile(path, mode=0o600)
    file.write(b"a\n")
    path.rename(path.with_suffix(".old"))
    file.write(b"b\n")
    path.unlink()
    file.write(b"c\n")
    assert (path.with_suffix(".old").read_bytes(), path.read_bytes()) == (b"a\n", b"c\n")


def test_a_full_disk_leaves_no_part_of_a_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is told, and the next line is whole."""
    file, write, room = AppendFile(path, mode=0o600), os.write, [3]
    file.write(b"one\n")

    def full(descriptor: int, data: bytes) -> int:
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, bytes(data)[: room.pop()])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="space"):
            file.write(b"two\n")
    file.write(b"three\n")
    assert path.read_bytes() == b"one\nthree\n"


def test_a_lock_that_is_held_for_long_costs_no_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines are written without it; a part of one that a full disk leaves is ended by the next."""
    monkeypatch.setattr(append_file, "_LOCK_LIMIT_S", 0.02)
    file, write, room = AppendFile(path, mode=0o600), os.write, [3]
    file.write(b"one\n")
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        file.write(b"two\n")
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda fd, data: write(fd, bytes(data)[: room.pop()]) if room else _no_space())
            with pytest.raises(OSError, match="space"):
                file.write(b"three\n")
        file.write(b"four\n")
    assert path.read_bytes() == b"one\ntwo\nthr\nfour\n"


def _no_space() -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_line_that_a_crash_cut_off_is_ended(path: Path) -> None:
    """For files that are opened for reading, too."""
    path.parent.mkdir()
    path.write_bytes(b"cut")
    file = AppendFile(path, mode=0o600, is_read=True)
    file.write(b"a\n")
    assert (path.read_bytes(), file.was_ended) == (b"cut\na\n", True)


def test_a_reopening_waits_for_the_line_that_is_being_written(path: Path) -> None:
    """The next line opens the file."""
    file = AppendFile(path, mode=0o600)
    file.write(b"a\n")
    with file._guard:
        file.reopen()
        held = file.descriptor
    file.write(b"b\n")
    assert file.descriptor != held or path.read_bytes() == b"a\nb\n"
