"""The master's decisions, without processes."""

import signal
import time
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.errors import HaltServer

from llm_proxy.server.arbiter import ProxyArbiter
from llm_proxy.server.loaded_code import LoadedCode
from llm_proxy.server.worker import BOOTING, LEAVING, SERVING


class Log:
    """Takes notes."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def reopen_files(self) -> None:
        """Open nothing."""

    def __getattr__(self, level: Any) -> Any:
        return lambda text, *args, **_: self.lines.append(f"{level}: {text % args if args else text}")


class Configuration:
    """Takes notes."""

    def __init__(self) -> None:
        self.faults, self.calls = list[str](), list[str]()

    def renew(self, cfg: Any) -> Any:
        self.calls.append("renew")
        return self.faults

    def restore(self, cfg: Any) -> None:
        self.calls.append("restore")

    def keep(self) -> None:
        self.calls.append("keep")

    def tick(self) -> None:
        pass


class Master(ProxyArbiter):
    """Forks and kills no process."""

    def __init__(self, workers: Any) -> None:
        self.cfg = SimpleNamespace(workers=workers)
        self.cfg.child_exit = self.cfg.nworkers_changed = lambda *_: None
        self.log: Any = Log()
        self.WORKERS: dict[int, Any] = {}
        self.sent: list[Any] = []
        self.pid = 0
        self._stats = {"reloads": 0, "workers_killed": 0}
        self._num_workers, self.worker_age, self.reexec_pid = workers, 0, 0
        Master.adopt(self, Configuration(), LoadedCode())

    def spawn_worker(self) -> Any:
        self.worker_age += 1
        pid = 100 + self.worker_age
        self.WORKERS[pid] = SimpleNamespace(
            age=self.worker_age, shared=bytearray([BOOTING]), forget=lambda: None, spawned_at=time.monotonic()
        )
        return pid

    def kill_worker(self, pid: Any, sig: Any) -> None:
        self.sent.append((pid, sig))

    def report(self, *pids: Any, state: Any = SERVING) -> None:
        for pid in pids:
            self.WORKERS[pid].shared[0] = state


@pytest.fixture
def master() -> Any:
    """Two workers that serve."""
    master = Master(2)
    master.manage_workers()
    master.report(101, 102)
    master.manage_workers()
    return master


def test_old_workers_retire_when_every_new_one_serves(master: Any) -> None:
    """Not before, and by SIGUSR2."""
    master.reload()
    master.report(103)
    master.manage_workers()
    assert master.sent == []
    master.report(104)
    master.manage_workers()
    assert sorted(master.sent) == [(101, signal.SIGUSR2), (102, signal.SIGUSR2)]
    assert master.configuration.calls == ["renew", "keep"]
    master.manage_workers()
    assert len(master.WORKERS) == 4  # the retired ones finish, none is missing


def test_a_reload_that_takes_too_long_is_undone(master: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """After 60 s: the new ones are killed, the old settings are back, the old workers stay."""
    now = time.monotonic()
    master.reload()
    master.report(103)
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    master.manage_workers()
    assert sorted(master.sent) == [(103, signal.SIGUSR2), (104, signal.SIGKILL)]
    assert master.configuration.calls == ["renew", "restore"]
    assert any("the new workers did not all serve within 60 s" in line for line in master.log.lines)
    master.manage_workers()
    assert master.sent[2:] == []


def test_faults_start_nothing(master: Any) -> None:
    """Each is logged."""
    master.configuration.faults = ["A=1: expected 2", "B=1: expected 2"]
    master.reload()
    assert len(master.WORKERS) == 2
    assert len([line for line in master.log.lines if "Reload refused" in line]) == 2


def test_a_newer_reload_replaces_one_under_way(master: Any) -> None:
    """The first's workers go; what is undone to stays what last served."""
    master.reload()
    master.reload()
    assert sorted(master.sent) == [(103, signal.SIGKILL), (104, signal.SIGKILL)]
    master.report(105, 106)
    master.manage_workers()
    assert sorted(master.sent[2:]) == [(101, signal.SIGUSR2), (102, signal.SIGUSR2)]


def test_who_leaves_unasked_is_replaced_at_once(master: Any) -> None:
    """Not when it has ended."""
    master.report(101, state=LEAVING)
    master.manage_workers()
    assert set(master.WORKERS) == {101, 102, 103}


def end(master: Any, pid: Any, code: Any) -> None:
    """A worker has ended with an exit code."""
    worker = master.WORKERS.pop(pid)
    master._note_end(pid, code << 8, worker)


def test_workers_that_die_young_are_replaced_ever_more_slowly(master: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """0.2 s, 0.4 s, … 30 s; at once after one that lived 5 s."""
    now = [time.monotonic()]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pauses = []
    for _ in range(10):
        end(master, max(master.WORKERS), 7)
        pauses.append(round(master.next_spawn_at - now[0], 3))
        master.manage_workers()
        assert len(master.WORKERS) == 1
        now[0] += pauses[-1]
        master.manage_workers()
        assert len(master.WORKERS) == 2
    assert pauses == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]
    now[0] += 5
    end(master, max(master.WORKERS), 7)
    assert master.next_spawn_at == now[0]


def test_a_failed_start_halts_only_a_server_that_has_never_served(master: Any) -> None:
    """gunicorn's exit codes 3 and 4."""
    end(master, 101, 3)
    fresh = Master(1)
    fresh.manage_workers()
    with pytest.raises(HaltServer):
        end(fresh, 101, 3)


def test_a_second_sigterm_becomes_sigquit(master: Any) -> None:
    """Whether the first has been acted on or not."""
    import queue

    master.SIG_QUEUE = queue.SimpleQueue()
    master.signal(signal.SIGTERM, None)
    master.signal(signal.SIGTERM, None)
    assert [master.SIG_QUEUE.get(), master.SIG_QUEUE.get()] == [signal.SIGTERM, signal.SIGQUIT]
    assert master.hasty


def test_ttou_retires_the_oldest(master: Any) -> None:
    """By SIGUSR2: without a bound."""
    master._num_workers = 1
    master.manage_workers()
    assert master.sent == [(101, signal.SIGUSR2)]
