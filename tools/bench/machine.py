"""The machine under the bench: cores, processes, and what the kernel says about them."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cores:
    """Which cores serve and which make load. `has_two_each`: enough of them to compare one worker with two."""

    serving: tuple[int, ...]
    loading: tuple[int, ...]
    count: int

    @property
    def has_two_each(self) -> bool:
        return len(self.serving) >= 2

    @classmethod
    def here(cls) -> "Cores":
        """From this process's own allowance: one core for the contestant, another for load and upstream."""
        cores = tuple(sorted(os.sched_getaffinity(0)))
        if len(cores) >= 4:
            return cls(cores[:2], cores[2:4], len(cores))
        return cls(cores[:1], cores[1:2] or cores[:1], len(cores))


def pinned(cores: Sequence[int], command: Sequence[str]) -> list[str]:
    """Return the command, held on these cores."""
    return ["taskset", "-c", ",".join(map(str, cores)), *command]


class Process:
    """Something that was started for the bench, with all its children; its output goes to `log`."""

    def __init__(self, command: Sequence[str], cores: Sequence[int], log: Path, *, cwd: Path, env: Mapping[str, str]):
        self._name, self._log = command[0], log
        with log.open("wb") as out:
            self._popen = subprocess.Popen(
                pinned(cores, command), stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=cwd, env=dict(env)
            )
        self.pid = self._popen.pid

    def wait_until(self, is_ready: Callable[[], bool], limit_s: float = 30.0) -> None:
        """Poll until ready. Raises RuntimeError with the end of its output when it ends or takes too long."""
        deadline = time.monotonic() + limit_s
        while not is_ready():
            if self._popen.poll() is not None or time.monotonic() > deadline:
                output = self._log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{self._name} does not serve:\n{output}")
            time.sleep(0.05)

    def stop(self, limit_s: float = 10.0) -> None:
        """SIGTERM to this process alone, SIGKILL past the limit."""
        if self._popen.poll() is None:
            self._popen.terminate()
            try:
                self._popen.wait(limit_s)
            except subprocess.TimeoutExpired:
                for pid in tree(self.pid):
                    os.kill(pid, signal.SIGKILL)
                self._popen.wait()


def tree(pid: int) -> list[int]:
    """Return the process and its descendants."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError):  # ended meanwhile
                continue
    found = [pid]
    for known in found:
        found.extend(child for child, parent in parents.items() if parent == known)
    return found


def cpu_s(pids: Sequence[int]) -> float:
    """CPU time that these processes have used, in seconds: by the scheduler's nanoseconds where the kernel has them."""
    total_ns = 0.0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            try:
                total_ns += int((task / "schedstat").read_text().split()[0])
            except FileNotFoundError:
                fields = (task / "stat").read_text().rpartition(")")[2].split()
                total_ns += (int(fields[11]) + int(fields[12])) * 1e9 / os.sysconf("SC_CLK_TCK")
    return total_ns / 1e9


def resident_bytes(pid: int) -> int:
    """Resident set of one process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def proportional_bytes(pid: int) -> int:
    """Resident set of one process, shared pages divided among those that share them; 0 of one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def free_port() -> int:
    """Return a loopback port from the kernel."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def responds_to_ping(port: int) -> bool:
    """Whether a Redis on loopback answers."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.settimeout(2)
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False


def is_serving(port: int, path: str) -> bool:
    """Whether a GET on loopback gets 200."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.settimeout(2)
            connection.sendall(f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n".encode())
            return b" 200 " in connection.recv(4096).partition(b"\r\n")[0] + b" "
    except OSError:
        return False
