"""Lines on their way to a file or stream that may block: written at once, or queued for a thread beside the loop."""

from collections import deque
from collections.abc import Callable
from typing import Any

STOP_S = 2.0  # what a blocked file or pipe delays a worker's end
_BATCH_BYTES = 256 * 1024  # a full disk loses whole batches


class LineWriter:
    """A bounded queue of lines. Once started, one greenlet hands them to one thread, so that no request waits.

    Args:
        write: Writes whole lines, in whichever thread; may block. Raises OSError.
        pause_s: How long lines are gathered before they are written.
        most_lines, most_bytes: Bounds of the queue; beyond them the oldest lines are dropped.
        lost: Gets the number of lines that were not written, and the error; None: the queue was full.
    """

    def __init__(
        self,
        write: Callable[[bytes], None],
        *,
        pause_s: float,
        most_lines: int,
        most_bytes: int,
        lost: Callable[[int, OSError | None], None],
    ) -> None:
        self._write, self._lost, self._pause_s = write, lost, pause_s
        self._most_lines, self._most_bytes = most_lines, most_bytes
        self._queue: deque[bytes] = deque()
        self._held_bytes = 0
        self._under_way = 0  # lines that the thread is writing
        self._greenlet: Any = None
        self._pool: Any = None
        self._work: Any = None  # gevent's event: there are lines, or the end has come
        self._is_stopping = False
        self.is_stuck = False  # the thread did not return before the end

    def put(self, line: bytes) -> None:
        """Queue a line, or write it if no thread was started. Never raises."""
        self._queue.append(line)
        self._held_bytes += len(line)
        if self._greenlet is None:
            self.flush()
        elif not self._work.is_set():
            self._work.set()
        while len(self._queue) > self._most_lines or self._held_bytes > self._most_bytes:
            self._held_bytes -= len(self._queue.popleft())
            self._lost(1, None)

    def start(self) -> None:
        """Queue from now on; needs gevent's loop in this process. A second call does nothing."""
        import gevent
        import gevent.event
        import gevent.threadpool

        if self._greenlet is None:
            self._pool, self._work = gevent.threadpool.ThreadPool(1), gevent.event.Event()
            self._is_stopping = False
            self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        """Write what is queued, within a bound of time; then write each line at once."""
        if self._greenlet is None:
            return
        self._is_stopping = True
        self._work.set()
        self._greenlet.join(timeout=STOP_S)
        self.is_stuck = not self._greenlet.ready()
        self._greenlet.kill(block=False)
        self._greenlet = None
        if self.is_stuck:
            self._lost(len(self._queue) + self._under_way, None)
            self._queue.clear()

    def flush(self) -> None:
        """Write what is queued, in this thread."""
        while self._queue and not self.is_stuck:
            count, data = self._take()
            self._told(count, self._tried(data))

    def _run(self) -> None:
        import gevent

        is_last = False
        while not is_last:
            self._work.wait()
            is_last = self._is_stopping
            if not self._is_stopping:
                gevent.sleep(self._pause_s)
            self._work.clear()
            while self._queue:
                self._under_way, data = self._take()
                self._told(self._under_way, self._pool.apply(self._tried, (data,)))
                self._under_way = 0

    def _tried(self, data: bytes) -> OSError | None:
        try:
            self._write(data)
        except OSError as exc:
            return exc
        return None

    def _told(self, count: int, error: OSError | None) -> None:
        if error is not None:
            self._lost(count, error)

    def _take(self) -> tuple[int, bytes]:
        """Return the number of the next lines, and the lines."""
        lines: list[bytes] = []
        held = 0
        while self._queue and held < _BATCH_BYTES:
            lines.append(self._queue.popleft())
            held += len(lines[-1])
        self._held_bytes -= held
        return len(lines), b"".join(lines)
