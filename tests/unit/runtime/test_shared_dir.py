"""Temporary folders are locked while a process of their server lives, and swept after."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from llm_proxy.runtime import shared_dir

_HOLD = """
import sys
from llm_proxy.runtime import shared_dir
folder = shared_dir.make()
shared_dir.note_server(folder, ["127.0.0.1:8080"])
print(folder, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary directory of the test's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_is_swept_once_its_server_was_killed(temporary: Path) -> None:
    """Not while it lives, nor folders of other programs or without a lock file."""
    for other in ("llm-proxy-cache-old", "another"):
        (temporary / other).mkdir()
    env = os.environ | {"TMPDIR": str(temporary)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", _HOLD], env=env, **pipes) as holder:  # type: ignore[call-overload]
        folder = Path(holder.stdout.readline().strip())
        assert folder.stat().st_mode & 0o777 == 0o700
        assert shared_dir.sweep() == 0
        assert not shared_dir.is_held_by_orphans("127.0.0.1:8080")
        holder.kill()
    assert shared_dir.is_held_by_orphans("127.0.0.1:8080")
    assert not shared_dir.is_held_by_orphans("127.0.0.1:8081")
    assert shared_dir.sweep() == 1
    assert sorted(path.name for path in temporary.iterdir()) == ["another", "llm-proxy-cache-old"]


def test_a_folder_that_another_server_uses_is_not_removed(temporary: Path) -> None:
    """SIGUSR2: two masters hold it; the last one removes it."""
    folder = shared_dir.make()
    first = shared_dir._locks.pop(folder)
    shared_dir.hold(folder)
    shared_dir.remove(folder)
    assert os.path.isdir(folder)
    os.close(first)
    shared_dir.hold(folder)
    shared_dir.remove(folder)
    assert list(temporary.iterdir()) == []
