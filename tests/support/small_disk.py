"""A small disk that can be full: its own tmpfs, mounted for one test."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

_FILL = "filling"


class SmallDisk:
    """A mounted tmpfs.

    Args:
        path: Where it is mounted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self) -> None:
        """Take all the room that is left, to the last page."""
        with (self.path / _FILL).open("ab", buffering=0) as file:
            for size in (65536, 4096, 512):
                with contextlib.suppress(OSError):
                    while file.write(b"x" * size) == size:
                        pass

    def free(self) -> None:
        """Give the room back."""
        (self.path / _FILL).unlink(missing_ok=True)


@contextlib.contextmanager
def small_disk(path: Path, size_kib: int) -> Iterator[SmallDisk]:
    """Mount one. Only a system administrator can; outside CI the test is skipped for others."""
    path.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_kib}k,mode=755", "tmpfs", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        if os.environ.get("CI"):
            pytest.fail(f"a tmpfs cannot be mounted: {done.stderr}")
        pytest.skip("mounting a tmpfs needs a system administrator")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
