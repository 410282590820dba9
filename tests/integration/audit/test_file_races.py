"""One audit file and many processes."""

import multiprocessing
import re
from pathlib import Path

from support.audit_processes import append_lines

from llm_proxy.audit.verify_file import verify_file

_SPAWN = multiprocessing.get_context("spawn")


def _files(path: Path) -> list[Path]:
    """Oldest first."""
    older = [found for found in path.parent.iterdir() if re.fullmatch(r"audit\.log\.\d+", found.name)]
    return [*sorted(older, key=lambda found: -int(found.suffix[1:])), path]


def test_eight_processes_append_one_chain_over_many_files(tmp_path: Path) -> None:
    """A process that finds the file full rotates it: no line is lost, each file begins with an anchor, one chain."""
    path = tmp_path / "audit.log"
    path.touch()
    go, results = _SPAWN.Event(), _SPAWN.Queue()
    racers = [_SPAWN.Process(target=append_lines, args=(str(path), 60, 20_000, go, results)) for _ in range(8)]
    for racer in racers:
        racer.start()
    go.set()
    while any(racer.is_alive() for racer in racers) and results.qsize() < len(racers):
        assert verify_file([path], None).faults == []
    assert [results.get(timeout=60) for _ in racers] == [[]] * 8
    for racer in racers:
        racer.join(30)
    files = _files(path)
    report = verify_file(files, None)
    assert (report.faults, report.writers, report.unreadable, report.without_chain) == ([], 1, 0, 0)
    assert len(files) > 5
    assert report.records == 8 * 60 + len(files) - 1
    for one in files:
        assert verify_file([one], None).faults == []
