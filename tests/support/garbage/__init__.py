"""What a worker's garbage collector would find: `sitecustomize.py` in this folder makes it tell."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.gateway import Gateway, eventually

_REPORT = "garbage.json"


def watch(folder: Path) -> dict[str, str]:
    """Return the variables with which a proxy that serves from this folder can be watched."""
    return {"PYTHONPATH": str(Path(__file__).parent), "GARBAGE_REPORT": str(folder / _REPORT)}


@contextmanager
def garbage(gateway: Gateway) -> Iterator[dict[str, int]]:
    """Fill the mapping with the types of what became garbage in the block, and how many there were."""
    report, (worker,), found = gateway.folder / _REPORT, gateway.workers(), dict[str, int]()
    report.unlink(missing_ok=True)
    os.kill(worker, signal.SIGRTMIN)
    yield found
    os.kill(worker, signal.SIGRTMIN + 1)
    eventually(report.exists)
    found.update(json.loads(report.read_text()))


def ours(found: dict[str, int]) -> dict[str, int]:
    """What belongs to exchanges: objects of the package, sockets, frames and failures."""
    prefixes = ("llm_proxy.", "gevent.", "gunicorn.", "builtins.frame", "builtins.traceback", "encodings.")
    return {name: count for name, count in found.items() if name.startswith(prefixes)}
