"""Which processes of this host still run."""

import os


def is_running(pid: int) -> bool:
    """Return whether a process of this id exists, another user's included."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass  # it is another user's, or nothing that can be asked for
    return True
