"""The folder that the workers of one server share: its store, its marks of invalidation, its locks.

The server's master makes it before it forks and tells the workers by the environment; a process without a master
makes one for itself. It holds tenants' answers, so nobody else may look into it, and it goes with its server.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

VARIABLE: Final = "LLM_PROXY_CACHE_FOLDER"  # between processes of one server, not for operators
PREFIX: Final = "llm-proxy-cache-"


def make() -> str:
    """A new one, mode 0700."""
    return tempfile.mkdtemp(prefix=PREFIX)


def of_server() -> str:
    """The folder of the master before this one (SIGUSR2), or a new one."""
    folder = os.environ.get(VARIABLE, "")
    return folder if "GUNICORN_PID" in os.environ and os.path.isdir(folder) else make()


def remove(folder: str) -> None:
    """Remove one that `make` made."""
    if Path(folder).name.startswith(PREFIX):
        shutil.rmtree(folder, ignore_errors=True)


def shared() -> Path:
    """The server's folder; made, and removed with this process, when there is no server."""
    folder = os.environ.get(VARIABLE)
    if folder and os.path.isdir(folder):
        return Path(folder)
    own = make()
    pid = os.getpid()
    atexit.register(lambda: remove(own) if os.getpid() == pid else None)
    return Path(own)
