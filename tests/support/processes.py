"""Processes that a test starts: free ports, signals to a server and its children, and their end."""

import contextlib
import os
import signal
import socket
import subprocess
from pathlib import Path


def free_port() -> int:
    """Return a port of the loopback address that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def end(process: subprocess.Popen[bytes], limit_s: float = 20) -> None:
    """Ask a process to end; kill it past the limit."""
    process.terminate()
    try:
        process.wait(limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class StoppableServer:
    """A server that a test can stop, kill and pause."""

    stop_signal = signal.SIGTERM
    _process: subprocess.Popen[bytes] | None = None

    def stop(self, number: int | None = None) -> None:
        """End it, in good order where no other signal is named; SIGKILL is a crash."""
        if self._process is None:
            return
        number = self.stop_signal if number is None else number
        if self._process.poll() is None:
            self._tell_all(signal.SIGCONT)
            self._tell_all(number) if number == signal.SIGKILL else os.kill(self._process.pid, number)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._tell_all(signal.SIGKILL)
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """End it as a crash would."""
        self.stop(signal.SIGKILL)

    def pause(self) -> None:
        """Let it hang: connections stay, nothing answers."""
        self._tell_all(signal.SIGSTOP)

    def resume(self) -> None:
        """End `pause`."""
        self._tell_all(signal.SIGCONT)

    def _tell_all(self, number: int) -> None:
        """Signal the server and its children; PostgreSQL's are their own process groups."""
        if self._process is None:
            return
        pids = [self._process.pid]
        with contextlib.suppress(FileNotFoundError):
            children = Path(f"/proc/{pids[0]}/task/{pids[0]}/children").read_text()
            pids += [int(pid) for pid in children.split()]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
