"""The code that the master has loaded for its workers, and whether the disk holds another by now.

Workers are forked from a master that has imported the application, so that they share its memory. A reload after an
upgrade on disk must run the new code: then workers begin as fresh interpreters instead (`fresh_worker`).
"""

import gc
import importlib
import os
import sys
from collections.abc import Callable

PARTS = ("llm_proxy.app", "llm_proxy.container", "llm_proxy.lifecycle", "llm_proxy.server.worker")

Stamp = tuple[int, int, int]  # inode, time of the last change in nanoseconds, size


class LoadedCode:
    """The modules of this process, as their files were when it loaded them."""

    def __init__(self) -> None:
        self._stamps: dict[str, Stamp | None] = {}
        self._has_changed = False

    def load(self, prepare: Callable[[], None] = lambda: None) -> None:
        """Import what workers need, note its files, and keep the collector from touching the shared pages.

        Imports leave hardly any garbage: the configuration has switched the collector off, which takes an eighth off
        the start, and to collect here would take another tenth.

        Args:
            prepare: Called when all is imported: makes what the workers share.
        """
        for name in PARTS:
            importlib.import_module(name)
        prepare()
        self.note()
        gc.freeze()
        gc.enable()

    def note(self) -> None:
        """Note the files of all modules that are loaded now."""
        files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
        self._stamps = {path: _stamp(path) for path in files if path is not None}

    def has_changed(self) -> bool:
        """Return whether a file is another one than was loaded. Once true, it stays true. About 10 ms."""
        if not self._has_changed:
            self._has_changed = any(_stamp(path) != noted for path, noted in self._stamps.items())
        return self._has_changed


def _stamp(path: str) -> Stamp | None:
    try:
        found = os.stat(path)
    except OSError:  # part of an archive, or removed
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
