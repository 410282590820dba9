"""A server in the background: its pid file, and releasing the terminal."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

from llm_proxy.cli.errors import CommandError
from llm_proxy.cli.ports import is_serving
from llm_proxy.runtime.processes import is_running
from llm_proxy.settings.variable import ListenAddress

_START_DEADLINE_S = 60.0


def claim(pid_path: Path) -> None:
    """Make the pid file's folder; a stale file goes. Raises CommandError when its process lives."""
    try:
        pid = int(pid_path.read_text())
    except FileNotFoundError:
        pid = 0
    except (OSError, ValueError):
        raise CommandError(f"{pid_path} exists but is not an llm-proxy pid file") from None
    if pid and _is_alive(pid):
        raise CommandError(f"already running with pid {pid} ({pid_path})")
    try:
        pid_path.parent.mkdir(parents=True, exist_ok=True)
        pid_path.unlink(missing_ok=True)
    except OSError as exc:
        raise CommandError(f"cannot write {pid_path}: {exc.strerror}") from None


def start(
    command: list[str], variables: Mapping[str, str], log_file: Path, address: ListenAddress, *, is_tls: bool
) -> int:
    """Start it detached, wait until it answers, and return its pid. Raises CommandError when it ended instead."""
    try:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
    except OSError as exc:
        raise CommandError(f"cannot write {log_file}: {exc.strerror}") from None
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _become_daemon(command, variables, log, writer)
    os.close(writer)
    os.close(log)
    os.waitpid(child, 0)
    with os.fdopen(reader) as pipe:
        pid = int(pipe.read())
    deadline = time.monotonic() + _START_DEADLINE_S
    while not is_serving(address, "/live", is_tls=is_tls):
        if not _is_alive(pid):
            raise CommandError(f"the server ended at its start; see {log_file}")
        if time.monotonic() > deadline:
            raise CommandError(f"the server (pid {pid}) does not answer yet; see {log_file}")
        time.sleep(0.05)
    return pid


def _become_daemon(command: list[str], variables: Mapping[str, str], log: int, writer: int) -> None:
    """Its own session and a second fork, so that no terminal can come back; never returns."""
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.write(writer, str(os.getpid()).encode())
        os.close(writer)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for descriptor, source in enumerate((nothing, log, log)):
            os.dup2(source, descriptor)
        os.closerange(3, 256)
        os.execve(command[0], command, variables)  # noqa: S606  (this interpreter, no shell)
    finally:
        os._exit(1)


def _is_alive(pid: int) -> bool:
    return is_running(pid) and not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    """Whether it has ended without being collected (an init that does not reap)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return False
