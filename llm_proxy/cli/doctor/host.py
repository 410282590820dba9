"""The machine: address, descriptors, clock."""

import json
import os
import platform
import resource
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from llm_proxy.cli.doctor.finding import CheckContext, Finding, fault, good, warning
from llm_proxy.cli.errors import CommandError
from llm_proxy.cli.ports import require_free
from llm_proxy.server import interpreter

_LEAST_DESCRIPTORS = 4096
_LEAST_YEAR = 2025
_HEARTBEATS = Path("/dev/shm")  # noqa: S108  (where gunicorn's heartbeats are kept)
_RESPONSE_S = 2.0


def address(context: CheckContext) -> Iterator[Finding]:
    """Whether LISTEN_ADDR is free, or an llm-proxy has it already."""
    where = context.settings.server.listen_addr
    try:
        require_free(where)
    except CommandError as error:
        version = _version_at(where.host or "127.0.0.1", where.port) if where.path is None else None
        if version is not None:
            yield good("host.address", f"an llm-proxy {version} serves on {where}")
        elif "unknown host" in error.message:
            yield fault("host.address-unknown", error.message, "correct the host in LISTEN_ADDR")
        elif "in use" in error.message:
            yield fault(
                "host.address-busy",
                error.message.partition(";")[0],
                "stop what listens there, or set another LISTEN_ADDR",
            )
        else:
            yield fault("host.address", error.message, "set another LISTEN_ADDR")
        return
    yield good("host.address", f"{where} is free")


def _version_at(host: str, port: int) -> str | None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        with opener.open(f"http://{place}/health", timeout=_RESPONSE_S) as response:
            about = json.loads(response.read(4096))
    except (OSError, ValueError):
        return None
    return str(about["version"]) if isinstance(about, dict) and about.get("status") == "ok" else None


def limits(context: CheckContext) -> Iterator[Finding]:
    """Open files that the system allows; each exchange needs two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = hard if hard != resource.RLIM_INFINITY else 1 << 20
    if most < _LEAST_DESCRIPTORS:
        what = f"the system allows {most} open files; a thousand streams need more than two thousand"
        yield warning("host.descriptors", what, f"raise the hard limit (ulimit -Hn) to {_LEAST_DESCRIPTORS} or more")
    else:
        yield good("host.descriptors", f"{soft} open files, up to {most}")
    if not (_HEARTBEATS.is_dir() and os.access(_HEARTBEATS, os.W_OK)):
        yield warning("host.shm", f"{_HEARTBEATS} cannot be written; heartbeats go to the disk", "mount a tmpfs there")


def speed(context: CheckContext) -> Iterator[Finding]:
    """Report what reads a request's head and how Python was built: both decide its cost, neither is a fault."""
    if interpreter.request_parser() == "c":
        yield good("host.parser", "request heads are read by the C parser")
    else:
        how = "pip install 'llm-proxy[fast]' brings the C parser, and needs a compiler"
        yield good("host.parser", f"request heads are read by the Python parser; {how}")
    said: dict[bool | None, str] = {
        True: "an optimised build",
        False: "built without --enable-optimizations, and slower",
    }
    build = said.get(interpreter.is_optimised(), "a build that does not tell how it was made")
    yield good("host.python", f"Python {platform.python_version()}, {build}")


def clock(context: CheckContext) -> Iterator[Finding]:
    """Report a clock that was never set; other machines' clocks are compared by their checks."""
    year = datetime.fromtimestamp(time.time(), UTC).year
    if year < _LEAST_YEAR:
        yield fault("clock.unset", f"this machine's clock says {year}", "set it (NTP): tokens expire by it")
    else:
        yield good("clock", f"{datetime.now(UTC):%Y-%m-%d %H:%M}Z")
