"""What requests are parsed by, and how the interpreter was built: both decide what a request costs."""

import platform
import sys
import sysconfig
from importlib.util import find_spec
from typing import Literal

_PROFILED = ("--enable-optimizations", "-fprofile-use", "-fprofile-instr-use")
_PROFILING_DISTRIBUTIONS = {"debian", "ubuntu", "fedora", "alpine"}  # their packages are built so and do not record it


def request_parser() -> Literal["c", "python"]:
    """Return which parser gunicorn takes for request heads: the C one where its package is installed."""
    return "c" if find_spec("gunicorn_h1c") is not None else "python"


def is_optimised() -> bool | None:
    """Return whether this interpreter was built with profile-guided optimisation; None where it does not say."""
    names = ("CONFIG_ARGS", "PY_CFLAGS", "PY_CFLAGS_NODIST", "PY_CORE_CFLAGS")
    said = " ".join(str(sysconfig.get_config_var(name) or "") for name in names)
    if any(flag in said for flag in _PROFILED):
        return True
    return None if sys.base_prefix == "/usr" and not _is_of_profiling_distribution() else sys.base_prefix == "/usr"


def _is_of_profiling_distribution() -> bool:
    try:
        about = platform.freedesktop_os_release()
    except OSError:
        return False
    return bool(_PROFILING_DISTRIBUTIONS & {about.get("ID", ""), *about.get("ID_LIKE", "").split()})
