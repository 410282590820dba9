"""Proving the chain of an audit file whole, or naming the first broken line."""

import contextlib
import gzip
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from llm_proxy.audit.chain import ANCHOR, START, Entry, Fault, Link, entry_of_line, follow
from llm_proxy.audit.file import remembered
from llm_proxy.audit.file_heads import FileHead, place_of
from llm_proxy.audit.verify import FAULTS, Report

_LOOKS, _PAUSE_S = 5, 0.1  # at a last line that may be being written


def verify_file(paths: Sequence[Path], heads: Mapping[str, FileHead] | None, *, is_part: bool = False) -> Report:
    """Look at files that follow each other, the oldest first.

    Args:
        heads: Writer → what the database knew of it before the files were read; None when there is none to ask.
        is_part: The last of the files is not the newest, so nothing is said about its end.

    Raises:
        OSError: A file can't be read.
    """
    reader = _Reader(dict(heads or {}))
    with contextlib.ExitStack() as stack:
        for path, file in _opened(paths, stack):
            for line in _lines(file):
                reader.line(path, line)
    reader.ended()
    report = reader.report
    if is_part:
        report.unchecked = "the newest file was not looked at"
    elif heads is None:
        report.unchecked = "no database knows where the file ends"
    else:
        reader.tails(paths[-1])
    return report


@dataclass(slots=True)
class _Chain:
    """One writer's chain so far. `cut`: where a line that is no record came after it; a fault ends the look at it."""

    at: Link
    cut: str | None = None
    fault: Fault | None = None


class _Reader:
    """Takes lines in their order."""

    def __init__(self, heads: dict[str, FileHead]) -> None:
        self.report = Report()
        self._heads, self._chains = heads, dict[str, _Chain]()
        self._path, self._number, self._is_cut = Path(), 0, False

    def line(self, path: Path, line: bytes) -> None:
        """Check the next line, its end included."""
        self._number = self._number + 1 if path == self._path else 1
        self._path, self._is_cut = path, not line.endswith(b"\n")
        try:
            entry, members = entry_of_line(line.rstrip(b"\n"))
        except ValueError:
            self.report.unreadable += 1
            self._cut()
            return
        self._is_cut = False  # all but its end is there
        if entry is None:
            self.report.without_chain += 1
            self._cut()
            return
        self._entry(entry, members)

    def ended(self) -> None:
        """No line is left. One that was cut off was a record that is not whole."""
        if self._is_cut and self._chains:
            writer, chain = next(reversed(self._chains.items()))
            self._fault(chain, Fault("changed record", writer, chain.at.seq + 1, f"{self._here()} is cut off"))
        self.report.writers = len(self._chains)
        self.report.ends = {writer: chain.at for writer, chain in self._chains.items()}

    def tails(self, path: Path) -> None:
        """Compare the ends with those that the database knows. `path` is the newest file."""
        place = place_of(str(path.absolute()))
        for writer, head in self._heads.items():
            chain = self._chains.get(writer)
            if chain is None and head.place == place:
                if _is_untouched(path, writer):
                    self.report.unchecked = "the file was rotated, and nothing was written since"
                    continue
                chain = _Chain(START)
            if chain is not None and chain.at.seq < head.last.seq:
                said = f"seq {head.last.seq} was written"
                self._fault(chain, Fault("missing tail", writer, chain.at.seq + 1, said))

    def _cut(self) -> None:
        for chain in self._chains.values():
            chain.cut = chain.cut or self._here()

    def _here(self) -> str:
        return f"line {self._number} of {self._path.name}"

    def _entry(self, entry: Entry, members: Mapping[str, Any]) -> None:
        chain = self._chains.pop(entry.writer, None)
        if chain is None:
            chain = _Chain(_anchored(entry, members))
        self._chains[entry.writer] = chain  # last in the order: the last writer's line may be cut off
        if chain.fault is not None:
            return
        fault = follow(entry, chain.at) or self._differs(entry)
        if fault is None:
            chain.at, chain.cut = entry.link, None
            self.report.records += 1
        elif fault.kind == "missing record" and chain.cut is not None:
            self._fault(chain, Fault("changed record", entry.writer, fault.seq, f"{chain.cut} is not what was written"))
        else:
            self._fault(chain, Fault(fault.kind, entry.writer, fault.seq, f"{fault.detail} ({self._here()})"))

    def _differs(self, entry: Entry) -> Fault | None:
        head = self._heads.get(entry.writer)
        if head is None or head.last.seq != entry.seq or head.last == entry.link:
            return None
        return Fault("changed record", entry.writer, entry.seq, "the database knows another hash of it")

    def _fault(self, chain: _Chain, fault: Fault) -> None:
        if chain.fault is None and len(self.report.faults) < FAULTS:
            self.report.faults.append(fault)
        chain.fault = chain.fault or fault


def _anchored(entry: Entry, members: Mapping[str, Any]) -> Link:
    """Where a chain begins: before its first record, or where its anchor says."""
    details = members.get("details")
    if members.get("action") != ANCHOR or not isinstance(details, dict):
        return START
    link = Link(entry.seq - 1, entry.prev_hash)
    said = (details.get("writer"), details.get("removed_seq"), details.get("removed_hash"))
    return link if said == (entry.writer, link.seq, link.hash) else START


def _is_untouched(path: Path, writer: str) -> bool:
    """Whether the chain ends in another file, which had this name before."""
    position = remembered(path)
    return position is not None and position.writer == writer and position.inode != os.stat(path).st_ino


def _opened(paths: Sequence[Path], stack: contextlib.ExitStack) -> list[tuple[Path, BinaryIO]]:
    """All files, before the first is read: rotated meanwhile they are still these. One with two names is one file."""
    opened, seen = list[tuple[Path, BinaryIO]](), set[tuple[int, int]]()
    for path in reversed(paths):
        plain = stack.enter_context(_patiently(path))
        found = os.fstat(plain.fileno())
        if (found.st_dev, found.st_ino) not in seen:
            seen.add((found.st_dev, found.st_ino))
            file: Any = gzip.GzipFile(fileobj=plain) if path.suffix == ".gz" else plain
            opened.append((path, file))
    return opened[::-1]


def _patiently(path: Path) -> BinaryIO:
    """Open a file that may just be making room for the next. Raises OSError."""
    for _ in range(_LOOKS):
        with contextlib.suppress(FileNotFoundError):
            return path.open("rb")
        time.sleep(_PAUSE_S)
    return path.open("rb")


def _lines(file: BinaryIO) -> Iterator[bytes]:
    for line in file:
        looks = 0
        while not line.endswith(b"\n") and looks < _LOOKS:
            time.sleep(_PAUSE_S)
            line, looks = line + file.readline(), looks + 1
        yield line
