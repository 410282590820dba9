"""Folders in the temporary directory that belong to one server, and go with it.

A server's master makes them before it forks and tells the workers by the environment. Every server holds a shared lock
on a file in its folders for as long as one of its processes lives. A folder whose lock is free belongs to a server that
was killed; the next start removes it. The folder of the response cache holds tenants' responses, so its mode is 0700.
"""

import atexit
import contextlib
import fcntl
import json
import os
import shutil
import signal
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from llm_proxy.runtime.processes import is_running

VARIABLE: Final = "LLM_PROXY_CACHE_FOLDER"  # between processes of one server, not for operators
CACHE_PREFIX: Final = "llm-proxy-cache-"
METRICS_PREFIX: Final = "llm-proxy-metrics-"
_ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
_LOCK_FILE: Final = ".in-use"
_SERVER_FILE: Final = ".server"
_locks: dict[str, int] = {}  # by folder; inherited over a fork, so that workers without a master keep it, too


def make(prefix: str = CACHE_PREFIX) -> str:
    """Return a new folder of mode 0700 that this process and its children hold. Raises OSError."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)  # else a signal here leaves the folder
    try:
        folder = tempfile.mkdtemp(prefix=prefix)
        hold(folder)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return folder


def of_server(*, is_inherited: bool = False) -> str:
    """Return the folder of the master before this one (SIGUSR2) or of this worker's master, or a new one."""
    folder = os.environ.get(VARIABLE, "")
    if not (is_inherited or "GUNICORN_PID" in os.environ) or not os.path.isdir(folder):
        return make()
    hold(folder)
    return folder


def hold(folder: str) -> None:
    """Keep the folder from being swept while this process or a child that it forks lives; its end removes it."""
    if not _locks:
        atexit.register(_remove_held, os.getpid())
    path = os.path.join(folder, _LOCK_FILE)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if _is_at(descriptor, path):  # else a sweep came between open and lock
            _locks[folder] = descriptor
            return
        os.close(descriptor)


def remove(folder: str) -> None:
    """Remove a folder that this process holds, unless another server (SIGUSR2) uses it, too."""
    descriptor = _locks.pop(folder, None)
    if descriptor is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        pass  # the other server removes it
    finally:
        os.close(descriptor)


def hand_on() -> None:
    """Leave the folders to the server that takes over (SIGUSR2), whether it holds them already or not."""
    _locks.clear()


def _remove_held(pid: int) -> None:
    """Remove what this process holds; not in a child that it forked."""
    if os.getpid() == pid:
        for folder in list(_locks):
            remove(folder)


def shared() -> Path:
    """Return the server's folder; where there is no server, one that is removed at this process's end."""
    folder = os.environ.get(VARIABLE)
    return Path(folder) if folder and os.path.isdir(folder) else Path(make())


def sweep() -> int:
    """Remove the folders of servers that were killed; return their number. Folders without a lock file stay."""
    return sum(_swept(folder) for folder in _folders())


def note_server(folder: str, addresses: Sequence[str]) -> None:
    """Write down, for later starts, the process that leads the server and where it listens."""
    note = {"pid": os.getpid(), "addresses": list(addresses)}
    with contextlib.suppress(OSError):  # a full disk
        Path(folder, _SERVER_FILE).write_text(json.dumps(note))


def is_held_by_orphans(address: str) -> bool:
    """Return whether workers of a server whose master was killed may still listen on this address."""
    for folder in _folders():
        try:
            note = json.loads(Path(folder, _SERVER_FILE).read_text())
            if address in note["addresses"] and not is_running(int(note["pid"])):
                return True
        except (OSError, ValueError, TypeError, LookupError):
            continue  # removed meanwhile, or not written yet
    return False


def _folders() -> list[str]:
    """Return all such folders of this user."""
    try:
        with os.scandir(tempfile.gettempdir()) as entries:
            prefixes = (CACHE_PREFIX, METRICS_PREFIX)
            return [entry.path for entry in entries if entry.name.startswith(prefixes) and _is_own(entry)]
    except OSError:
        return []


def _is_own(entry: os.DirEntry[str]) -> bool:
    try:
        found = entry.stat(follow_symlinks=False)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and os.geteuid() in (0, found.st_uid)


def _swept(folder: str) -> bool:
    try:
        descriptor = os.open(os.path.join(folder, _LOCK_FILE), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # in use
        return False
    finally:
        os.close(descriptor)
    return not os.path.exists(folder)


def _is_at(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except OSError:
        return False
