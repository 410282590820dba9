"""The master process: generations of workers, reload without losing one stream, and a stop that can be hurried.

`on_starting` turns gunicorn's arbiter into this class (`adopt`), so that plain gunicorn behaves like the project's
command. By then `run`, `setup` and `start` are on the stack: they are not overridden.
"""

import os
import signal
import time
from dataclasses import dataclass
from typing import Any, Protocol

from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

from llm_proxy.server.worker import BLOCKED, BOOTING, LEAVING, SERVING, Worker

HASTY_STOP_S = 5  # Ctrl-C: what a stuck worker gets
LATE_START_S = 3.0  # SIGTERM: what a worker that is still starting gets
SWAP_LIMIT_S = 60.0  # a reload whose workers do not all serve by then is undone
SWAP_POLL_S = 0.05
BACK_OFF_FIRST_S, BACK_OFF_MOST_S = 0.2, 30.0
GOOD_SERVICE_S = 5.0  # a worker that lived so long was no fault of the start


class Configuration(Protocol):
    """What a reload needs of the configuration."""

    def renew(self, cfg: Any) -> list[str]:
        """Read everything again and put it in place for workers forked from now on; faults leave all as it was."""

    def restore(self, cfg: Any) -> None:
        """Put back what the last `keep` confirmed."""

    def keep(self) -> None:
        """Keep the renewed configuration: it serves."""

    def tick(self) -> None:
        """Do what is due about once a second. Raises HaltServer."""


class Code(Protocol):
    """The code that workers are forked with."""

    def has_changed(self) -> bool:
        """Return whether the disk holds another by now."""


@dataclass(slots=True)
class Swap:
    """A reload under way: the pids of the new generation, and when it is given up (monotonic)."""

    pids: set[int]
    deadline: float
    workers: int


class ProxyArbiter(Arbiter):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's arbiter, which does not wait in a reload and tells retired workers from serving ones."""

    configuration: Configuration
    code: Code
    served: bool  # a worker has reported that it serves
    terminating: bool
    hasty: bool
    retired: set[int]  # pids that only finish
    swap: Swap | None
    back_off_s: float
    next_spawn_at: float
    stop_began_at: float
    reexec_pid: int

    @classmethod
    def adopt(cls, arbiter: Any, configuration: Configuration, code: Code) -> "ProxyArbiter":
        """Make this class of a gunicorn arbiter that is about to start."""
        arbiter.__class__ = cls
        arbiter.configuration, arbiter.code = configuration, code
        arbiter.served = arbiter.terminating = arbiter.hasty = False
        arbiter.retired = set()
        arbiter.swap = None
        arbiter.back_off_s = arbiter.next_spawn_at = arbiter.stop_began_at = 0.0
        adopted: ProxyArbiter = arbiter
        return adopted

    # -- signals and the stop -------------------------------------------------------------------------------------

    def signal(self, sig: int, frame: object) -> None:
        """Queue the signal; a second SIGTERM cuts."""
        if sig == signal.SIGTERM and self.terminating:
            sig, self.hasty = signal.SIGQUIT, True
        self.terminating = self.terminating or sig == signal.SIGTERM
        super().signal(sig, frame)

    def stop(self, graceful: bool = True) -> None:
        """End all workers of all generations, and wait for them."""
        self.terminating = True
        self.stop_began_at = time.monotonic()
        if not graceful:
            self.cfg.set("graceful_timeout", HASTY_STOP_S)
        if self.hasty:  # it came in the same batch as the first one, and the main loop has dropped it
            self.SIG_QUEUE.put_nowait(signal.SIGQUIT)
        super().stop(graceful)

    def wait_for_signals(self, timeout: float = 1.0) -> list[int]:
        """Wait less when something is due sooner."""
        if self.swap is not None:
            timeout = min(timeout, SWAP_POLL_S)
        elif self._missing() > 0:
            timeout = min(timeout, max(self.next_spawn_at - time.monotonic(), 0.01))
        signals: list[int] = super().wait_for_signals(timeout)
        return signals

    # -- reload ---------------------------------------------------------------------------------------------------

    def reload(self) -> None:
        """Check everything first; then start a new generation beside the old one, and do not wait for it here."""
        self._stats["reloads"] += 1
        if self.swap is not None:  # the newer reload wins; what is undone to stays the same
            self._drop_swap()
        faults = self.configuration.renew(self.cfg)
        for fault in faults:
            self.log.error("Reload refused, the old workers go on: %s", fault)
        if faults:
            return
        self.log.reopen_files()
        swap = Swap(set(), time.monotonic() + SWAP_LIMIT_S, self.cfg.workers)
        self.swap = swap
        for _ in range(swap.workers):
            swap.pids.add(self.spawn_worker())

    def _advance_swap(self, swap: Swap) -> None:
        alive = swap.pids & self.WORKERS.keys()
        if len(alive) < swap.workers or any(self._report(pid) == LEAVING for pid in alive):
            self._undo("a new worker has ended")
        elif all(self._report(pid) == SERVING for pid in alive):
            self.swap = None
            self.num_workers = swap.workers
            self.configuration.keep()
            for pid in self.WORKERS.keys() - swap.pids:
                self._retire(pid)
            self.log.info("Reload done: %s new workers serve", swap.workers)
        elif time.monotonic() > swap.deadline:
            self._undo(f"the new workers did not all serve within {SWAP_LIMIT_S:.0f} s")

    def _undo(self, reason: str) -> None:
        self._drop_swap()
        self.configuration.restore(self.cfg)
        self.log.error("Reload undone, the old workers go on: %s", reason)

    def _drop_swap(self) -> None:
        assert self.swap is not None
        swap, self.swap = self.swap, None
        for pid in swap.pids & self.WORKERS.keys():  # none of them is needed, but it may have taken a connection
            self._retire(pid) if self._report(pid) == SERVING else self.kill_worker(pid, signal.SIGKILL)
            self.retired.add(pid)

    def _retire(self, pid: int) -> None:
        if pid not in self.retired:
            self.retired.add(pid)
            self.kill_worker(pid, signal.SIGUSR2)

    def _report(self, pid: int) -> int:
        state: int = self.WORKERS[pid].shared[0]
        return state

    # -- the number of workers ------------------------------------------------------------------------------------

    def manage_workers(self) -> None:
        """Advance a reload, replace missing workers, retire surplus ones; called at least once a second."""
        self.configuration.tick()
        self._take_stock()
        if self.swap is not None:
            self._advance_swap(self.swap)
            return
        missing = self._missing()
        if missing > 0 and time.monotonic() >= self.next_spawn_at:
            for _ in range(missing):
                self.spawn_worker()
        for pid in sorted(self._current(), key=lambda pid: self.WORKERS[pid].age)[: max(-missing, 0)]:
            self._retire(pid)

    def _take_stock(self) -> None:
        self.retired &= self.WORKERS.keys()
        for pid in self.WORKERS:
            state = self._report(pid)
            self.served = self.served or state != BOOTING
            if state == LEAVING:  # for whatever reason: it is replaced now
                self.retired.add(pid)

    def _current(self) -> list[int]:
        return [pid for pid in self.WORKERS if pid not in self.retired]

    def _missing(self) -> int:
        missing: int = self.num_workers - len(self._current())
        return missing

    def spawn_worker(self) -> int:
        """Fork one. Signals that a worker acts on wait until it can: it begins with the master's handlers."""
        signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
        try:
            pid: int = super().spawn_worker()
            self.WORKERS[pid].spawned_at = time.monotonic()
            return pid
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)

    # -- dead workers ---------------------------------------------------------------------------------------------

    def reap_workers(self) -> None:
        """Take note of ended workers. Raises HaltServer when none has ever served and one can't start."""
        if self.terminating:
            self._end_late_starters()
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid == self.reexec_pid:
                self.reexec_pid = 0
                continue
            worker: Worker | None = self.WORKERS.get(pid)
            if worker is None:  # an orphan that process 1 inherits
                continue
            self._take_stock()  # its last report still counts
            del self.WORKERS[pid]
            self._note_end(pid, status, worker)

    def _end_late_starters(self) -> None:
        """End workers that hang in their start: they do not hear SIGTERM, and have nothing to finish."""
        if self.stop_began_at and time.monotonic() - self.stop_began_at > LATE_START_S:
            for pid in list(self.WORKERS):
                if self._report(pid) == BOOTING:
                    self.kill_worker(pid, signal.SIGKILL)

    def _note_end(self, pid: int, status: int, worker: Any) -> None:
        is_asked = pid in self.retired or self.terminating
        self.retired.discard(pid)
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            log = self.log.info if is_asked else self.log.error
            log("Worker %s was ended by %s", pid, signal.Signals(-code).name)
        elif code:
            self.log.error("Worker %s ended with code %s", pid, code)
        worker.forget()
        self.cfg.child_exit(self, worker)
        if is_asked:
            return
        if not self.served and code in (self.WORKER_BOOT_ERROR, self.APP_LOAD_ERROR):
            raise HaltServer("The first worker does not start.", code)
        self._back_off(time.monotonic() - worker.spawned_at)

    def _back_off(self, lived_s: float) -> None:
        """Pause before a worker that dies at once is forked again."""
        if lived_s >= GOOD_SERVICE_S:
            self.back_off_s = 0.0
        else:
            self.back_off_s = min(max(2 * self.back_off_s, BACK_OFF_FIRST_S), BACK_OFF_MOST_S)
        self.next_spawn_at = time.monotonic() + self.back_off_s

    def kill_worker(self, pid: int, sig: int) -> None:
        """Signal one; a dead one is noted when it is reaped."""
        try:
            os.kill(pid, sig)
        except ProcessLookupError:
            return
        if sig in (signal.SIGTERM, signal.SIGKILL):
            self._stats["workers_killed"] += 1
