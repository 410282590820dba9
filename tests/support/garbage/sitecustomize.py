"""Runs in each Python process whose PYTHONPATH names this folder: tells what only the garbage collector would free.

SIGRTMIN takes away what there is and stops the collector; SIGRTMIN+1 writes how many objects of each type have become
garbage since, as JSON, to the file that GARBAGE_REPORT names, and starts it again.
"""

import collections
import gc
import json
import os
import pathlib
import signal


def _begin(*_: object) -> None:
    gc.collect()
    gc.disable()


def _tell(*_: object) -> None:
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    found = collections.Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.garbage)
    gc.garbage.clear()
    gc.enable()
    report = pathlib.Path(os.environ["GARBAGE_REPORT"])
    draft = report.with_suffix(".draft")
    draft.write_text(json.dumps(found))
    draft.rename(report)


signal.signal(signal.SIGRTMIN, _begin)
signal.signal(signal.SIGRTMIN + 1, _tell)
