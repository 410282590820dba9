"""Lines on their way to a file: bounded, counted, and never in a caller's way once a thread writes."""

import os
import threading
from collections.abc import Callable

import gevent

from llm_proxy.runtime.line_writer import LineWriter


class _Lost:
    def __init__(self) -> None:
        self.count = 0
        self.errors: list[OSError | None] = []

    def __call__(self, count: int, error: OSError | None) -> None:
        self.count += count
        self.errors.append(error)


def _writer(write: Callable[[bytes], object], lost: _Lost, most_lines: int = 100) -> LineWriter:
    def written(data: bytes) -> None:
        write(data)

    return LineWriter(written, pause_s=0.0, most_lines=most_lines, most_bytes=1000, lost=lost)


def test_without_a_thread_each_line_is_written_at_once() -> None:
    """As commands and the master do."""
    written: list[bytes] = []
    _writer(written.append, _Lost()).put(b"a\n")
    assert written == [b"a\n"]


def test_a_stalled_pipe_stops_no_caller() -> None:
    """Lines beyond the bound are dropped and counted, the oldest first; the end is bounded in time, too."""
    read, write = os.pipe()
    os.write(write, b"x" * 65536)  # a pipe's worth
    lost = _Lost()
    writer = _writer(lambda data: os.write(write, data), lost, most_lines=10)
    writer.start()
    for number in range(50):
        writer.put(b"%d\n" % number)
        gevent.sleep(0)
    assert 0 < lost.count < 50
    began = lost.count
    writer.stop()
    assert writer.is_stuck
    assert lost.count == 50 > began
    os.close(read)  # ends the thread's write
    os.close(write)


def test_lines_are_written_in_order_by_another_thread() -> None:
    """All of them by the end."""
    written: list[bytes] = []
    threads: set[int] = set()

    def write(data: bytes) -> None:
        threads.add(threading.get_native_id())
        written.append(data)

    lost = _Lost()
    writer = _writer(write, lost)
    writer.start()
    for number in range(60):
        writer.put(b"%d\n" % number)
        gevent.sleep(0)
    writer.stop()
    assert b"".join(written) == b"".join(b"%d\n" % number for number in range(60))
    assert threading.get_native_id() not in threads
    assert lost.count == 0


def test_a_full_disk_is_counted_by_the_line() -> None:
    """With the error."""

    def write(data: bytes) -> None:
        raise OSError(28, "No space left on device")

    lost = _Lost()
    writer = _writer(write, lost)
    writer.start()
    for _ in range(5):
        writer.put(b"a\n")
    writer.stop()
    assert lost.count == 5
    assert all(error is not None for error in lost.errors)
