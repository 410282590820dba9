"""Which processes of this host still run."""

import contextlib
import os
from pathlib import Path


def is_running(pid: int) -> bool:
    """Return whether a process of this id runs, another user's included; one that waits for its parent has ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass  # it is another user's, or nothing that can be asked for
    with contextlib.suppress(OSError):  # no /proc, or it has gone meanwhile
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[:1] != ["Z"]
    return True
