"""The chain of lines in audit files: whatever the processes do, it is one chain; every tampering is named."""

import gzip
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm_proxy.audit import verify_file as reading
from llm_proxy.audit.chain import Link
from llm_proxy.audit.file import AuditFile, memo_of
from llm_proxy.audit.file_heads import FileHead, place_of
from llm_proxy.audit.record import AuditEvent
from llm_proxy.audit.verify import Report
from llm_proxy.audit.verify_file import verify_file


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process is just writing the last line."""
    monkeypatch.setattr(reading, "_PAUSE_S", 0.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The audit file."""
    return tmp_path / "audit.log"


def _event(n: int = 0) -> AuditEvent:
    return AuditEvent("test.act", "tester", "success", details={"n": n, "text": 'é" ,"hash":"x"}\n'})


def _filled(path: Path, number: int = 5) -> dict[str, FileHead]:
    """A file with that many lines, and what the database would know."""
    file = AuditFile(path)
    file.append([_event(n) for n in range(number)])
    return _known(file)


def _known(file: AuditFile) -> dict[str, FileHead]:
    assert file.position is not None
    return {file.position.writer: FileHead(place_of(str(file.place)), file.position.link)}


def _fault(report: Report) -> tuple[str, int] | None:
    assert len(report.faults) <= 1, report.faults
    return (report.faults[0].kind, report.faults[0].seq) if report.faults else None


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def test_a_line_proves_itself_with_a_hash_tool(path: Path) -> None:
    """The hash is SHA-256 of the line up to `hash`, closed by a brace; the first line names no other."""
    _filled(path, 2)
    before = "0" * 64
    for number, line in enumerate(path.read_text().splitlines(), 1):
        members = json.loads(line)
        assert list(members)[-4:] == ["writer", "seq", "prev_hash", "hash"]
        assert (members["seq"], members["prev_hash"]) == (number, before)
        before = hashlib.sha256((line[: line.rindex(',"hash":"')] + "}").encode()).hexdigest()
        assert members["hash"] == before


def _changed(lines: list[bytes]) -> list[bytes]:
    return [*lines[:2], lines[2].replace(b"tester", b"nobody"), *lines[3:]]


def _made_again(lines: list[bytes]) -> list[bytes]:
    body = lines[2].replace(b"tester", b"nobody")
    body = body[: body.rindex(b',"hash":"')]
    return [*lines[:2], b'%b,"hash":"%b"}\n' % (body, hashlib.sha256(body + b"}").hexdigest().encode()), *lines[3:]]


def _spaced(lines: list[bytes]) -> list[bytes]:
    return [*lines[:2], json.dumps(json.loads(lines[2])).encode() + b"\n", *lines[3:]]


@pytest.mark.parametrize(
    ("tamper", "wanted"),
    [
        (_changed, ("changed record", 3)),
        (_made_again, ("changed record", 3)),
        (_spaced, ("changed record", 3)),
        (lambda lines: [*lines[:2], b"junk\n", *lines[3:]], ("changed record", 3)),
        (lambda lines: [*lines[:2], b'{"action":"x"}\n', *lines[3:]], ("changed record", 3)),
        (lambda lines: [*lines[:2], *lines[3:]], ("missing record", 3)),
        (lambda lines: lines[1:], ("missing record", 1)),
        (lambda lines: [*lines[:2], lines[3], lines[2], lines[4]], ("missing record", 3)),
        (lambda lines: [*lines, lines[4]], ("changed record", 5)),
        (lambda lines: lines[:3], ("missing tail", 4)),
        (lambda lines: [], ("missing tail", 1)),
        (lambda lines: [*lines[:4], lines[4][:40]], ("changed record", 5)),
        (lambda lines: [*lines[:4], lines[4][:-1]], None),
        (lambda lines: [b"junk from before\n", b'{"action":"from before"}\n', *lines], None),
    ],
    ids=["changed", "made again", "written again", "junk", "unchained", "gone", "first gone", "swapped", "twice",
         "tail", "emptied", "cut off", "without its end", "older lines before"],
)  # fmt: skip
def test_each_tampering_is_named(
    path: Path, tamper: Callable[[list[bytes]], list[bytes]], wanted: tuple[str, int] | None
) -> None:
    """By kind and number; lines from before the chain are counted alone."""
    known = _filled(path)
    assert _fault(verify_file([path], known)) is None
    path.write_bytes(b"".join(tamper(_lines(path))))
    assert _fault(verify_file([path], known)) == wanted


def test_the_last_line_made_again_is_named_by_the_database(path: Path) -> None:
    """Only a copy elsewhere can tell; without a database the report says that it can't."""
    known = _filled(path, 3)
    path.write_bytes(b"".join(_made_again(_lines(path))))
    assert _fault(verify_file([path], known)) == ("changed record", 3)
    alone = verify_file([path], None)
    assert (_fault(alone), alone.unchecked) == (None, "no database knows where the file ends")


def test_files_are_one_chain_however_they_were_rotated(path: Path) -> None:
    """Renamed, copied and emptied, removed, by size: each new file begins with an anchor; the set is whole."""
    kept: list[Path] = []
    file, other = AuditFile(path), AuditFile(path)
    for n, how in enumerate(("rename", "copy", "gzip", "remove", "none")):
        file.append([_event()])
        other.append([_event(), _event()])
        if how in ("copy", "gzip"):
            kept.append(path.with_name(f"old.{n}"))
            shutil.copy(path, kept[-1])
            os.truncate(path, 0)
            if how == "gzip":
                packed = kept[-1].with_name(f"old.{n}.gz")
                packed.write_bytes(gzip.compress(kept.pop().read_bytes()))
                kept.append(packed)
        elif how == "rename":
            kept.append(path.rename(path.with_name(f"old.{n}")))
            other.reopen()
        elif how == "remove":
            path.unlink()
    assert [_fault(verify_file([found], None, is_part=True)) for found in (*kept, path)] == [None] * 4
    assert _fault(verify_file(kept, None, is_part=True)) is None
    report = verify_file([*kept, path], _known(other))
    assert _fault(report) == ("missing record", 12)  # the file that was removed is what is missing
    assert _fault(verify_file([kept[0], kept[2]], None, is_part=True)) == ("missing record", 4)
    assert _fault(verify_file([path], _known(other))) is None


def test_a_file_that_moves_on_while_it_is_looked_at_is_one_file(path: Path) -> None:
    """Under two names it is read once; nothing comes twice."""
    known = _filled(path)
    os.link(path, path.with_name("audit.log.1"))
    report = verify_file([path.with_name("audit.log.1"), path], known)
    assert (_fault(report), report.records) == (None, 5)


def test_a_file_that_was_just_rotated_is_no_alarm(path: Path) -> None:
    """An empty new file after a rename says that nothing was written since; emptied in place, its lines are missing."""
    file = AuditFile(path)
    file.append([_event()])
    path.rename(path.with_name("old"))
    path.touch()
    report = verify_file([path], _known(file))
    assert (_fault(report), report.unchecked) == (None, "the file was rotated, and nothing was written since")
    file.append([])
    assert _fault(verify_file([path], _known(file))) is None
    assert [json.loads(line)["action"] for line in _lines(path)] == ["audit.anchor"]
    os.truncate(path, 0)
    assert _fault(verify_file([path], _known(file))) == ("missing tail", 1)


def test_an_anchor_that_lies_is_a_missing_head(path: Path) -> None:
    """A file that begins with an anchor of another place is not whole."""
    file = AuditFile(path)
    file.append([_event() for _ in range(3)])
    path.rename(path.with_name("old"))
    file.append([_event()])
    anchor, rest = _lines(path)
    body = anchor.replace(b'"removed_seq":3', b'"removed_seq":2')
    body = body[: body.rindex(b',"hash":"')]
    path.write_bytes(b'%b,"hash":"%b"}\n' % (body, hashlib.sha256(body + b"}").hexdigest().encode()) + rest)
    assert _fault(verify_file([path], None)) == ("missing record", 1)


def test_a_restart_continues_the_chain(path: Path) -> None:
    """The chain is the file's, not the process's."""
    known = _filled(path, 2) | _filled(path, 2)
    report = verify_file([path], known)
    assert (_fault(report), report.records, report.writers) == (None, 4, 1)


def test_a_memory_that_was_lost_begins_another_chain(path: Path) -> None:
    """The first one's end is still known, so cutting it off is seen."""
    known = _filled(path, 3)
    for junk in (b"", b"junk", b'{"writer":"x","seq":"y","hash":"","inode":0,"size":0}'):
        memo_of(path).write_bytes(junk)
        known |= _filled(path, 2)
    report = verify_file([path], known)
    assert (_fault(report), report.records, report.writers) == (None, 9, 4)
    path.write_bytes(b"".join(_lines(path)[:2] + _lines(path)[3:]))
    assert _fault(verify_file([path], known)) == ("missing tail", 3)


def test_a_folder_that_is_not_ours_leaves_chains_of_processes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a place for the memory beside the file, each process has a chain, which is not expected to go on."""
    monkeypatch.setattr("llm_proxy.audit.file._open_memo", lambda path: None)
    first, second = AuditFile(path), AuditFile(path)
    for file in (first, second, first):
        file.append([_event(), _event()])
    report = verify_file([path], {})
    assert (_fault(report), report.records, report.writers, first.place) == (None, 6, 2, None)
    path.rename(path.with_name("old"))
    for file in (first, second):
        file.append([_event()])
    assert _fault(verify_file([path], {})) is None
    assert _fault(verify_file([path.with_name("old"), path], {})) is None


def test_lines_of_an_older_release_in_between_are_counted(path: Path) -> None:
    """During an upgrade both write: nothing is proven of its lines, and the chain goes on."""
    file = AuditFile(path)
    for _ in range(3):
        file.append([_event()])
        with path.open("ab") as other:
            other.write(b'{"timestamp":"x","action":"old"}\n')
    report = verify_file([path], _known(file))
    assert (_fault(report), report.records, report.without_chain) == (None, 3, 3)


def test_what_was_written_but_not_remembered_is_found(path: Path) -> None:
    """Killed between the line and the memory of it: the next one continues what is really there."""
    file = AuditFile(path)
    file.append([_event()])
    memo = memo_of(path).read_bytes()
    file.append([_event(), _event()])
    memo_of(path).write_bytes(memo)
    with path.open("ab") as cut:
        cut.write(b'{"timestamp"')
    file.append([_event()])
    report = verify_file([path], _known(file))
    assert (_fault(report), report.records, report.unreadable) == (None, 4, 1)


def test_a_disk_that_is_full_breaks_no_chain(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error, and no part of a line; the next record has the number that was not used."""
    file, write, left = AuditFile(path), os.write, [70]
    file.append([_event()])

    def full(descriptor: int, data: Any) -> int:
        if not left[0]:
            raise OSError(28, "No space left on device")
        done = write(descriptor, bytes(data)[: left[0]])
        left[0] = 0
        return done

    monkeypatch.setattr("llm_proxy.audit.file.os.write", full)
    with pytest.raises(OSError, match="space"):
        file.append([_event(), _event()])
    monkeypatch.undo()
    file.append([_event()])
    report = verify_file([path], _known(file))
    assert (_fault(report), report.records, report.unreadable) == (None, 2, 0)


def test_threads_append_whole_lines(path: Path) -> None:
    """Ten threads with two file objects: one chain."""
    files = [AuditFile(path), AuditFile(path)]
    work = [
        threading.Thread(target=lambda n=n: [files[n % 2].append([_event()]) for _ in range(20)]) for n in range(10)
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join(30)
    report = verify_file([path], None)
    assert (_fault(report), report.records, report.writers) == (None, 200, 1)


def test_a_lock_that_is_held_for_long_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was stopped while it wrote blocks no other permanently."""
    monkeypatch.setattr("llm_proxy.audit.file._LOCK_LIMIT_S", 0.05)
    with AuditFile(path)._alone(), pytest.raises(OSError, match="lock"):
        AuditFile(path).append([_event()])


def test_a_file_of_another_place_is_not_expected(path: Path) -> None:
    """Chains that the database knows of other hosts and files are none of this one's business."""
    known = _filled(path, 2) | {"another": FileHead("host:/elsewhere", Link(9, "0" * 64))}
    assert _fault(verify_file([path], known)) is None
    here = {"lost": FileHead(place_of(str(path.absolute())), Link(9, "0" * 64))}
    assert _fault(verify_file([path], known | here)) == ("missing tail", 1)
