"""`bin/test` itself: what it installs, when it asks, and what it hands to tox; tox and apt-get are recorders here."""

import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# What the script itself runs.
_TOOLS = ("bash", "cat", "comm", "dirname", "env", "find", "id", "mktemp", "rm", "sed", "sort", "tail", "true")


@pytest.fixture
def copy(checkout: Path, tmp_path: Path) -> Path:
    """A folder with bin/test, a recording tox, and a PATH that holds no server."""
    folder = tmp_path / "copy"
    (folder / "bin").mkdir(parents=True)
    shutil.copy(checkout / "bin" / "test", folder / "bin" / "test")
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in _TOOLS:
        found = shutil.which(name)
        assert found, name
        (programs / name).symlink_to(found)
    _script(programs / "python3", f'exec {sys.executable} "$@"')
    _script(programs / "sudo", 'shift; exec "$@"')
    _script(programs / "apt-get", f'echo "$@" >>{tmp_path}/apt')
    tox = folder / ".tox" / "host" / "bin" / "tox"
    tox.parent.mkdir(parents=True)
    _script(tox, f'echo "$@" >>{tmp_path}/tox')
    return folder


def _script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


def _run(folder: Path, *words: str, response: str | None = None) -> int:
    """Run it; with a response, at a terminal."""
    command = ["bash", str(folder / "bin" / "test"), *words]
    env = {"PATH": str(folder.parent / "programs"), "HOME": str(folder)}
    if response is None:
        return subprocess.run(command, env=env, stdin=subprocess.DEVNULL, check=False, timeout=60).returncode
    outer, inner = pty.openpty()
    os.write(outer, response.encode())
    run = subprocess.run(command, env=env, stdin=inner, stdout=inner, stderr=inner, check=False, timeout=60)
    os.close(inner)
    os.close(outer)
    return run.returncode


def _told(folder: Path, name: str) -> list[str]:
    path = folder.parent / name
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize("words", [["--", "tests/unit/test_crypto.py", "-q"], ["-e", "lint,types"]], ids=str)
def test_the_fast_ways_install_nothing(copy: Path, words: list[str]) -> None:
    """Unit tests, lint and types ask for no server."""
    assert _run(copy, *words) == 0
    assert _told(copy, "apt") == []
    assert len(_told(copy, "tox")) == 1


@pytest.mark.parametrize(
    ("words", "environment"),
    [
        (["tests/unit"], "unit"),
        (["tests/unit/a.py", "-k", "x"], "unit"),
        (["tests/unit", "tests/e2e"], "py"),
        (["-k", "x"], "py"),
    ],
    ids=str,
)
def test_paths_choose_the_environment(copy: Path, words: list[str], environment: str) -> None:
    """What lies in tests/unit alone runs in parallel, everything else on the built wheel."""
    assert _run(copy, "--", *words) == 0
    assert _told(copy, "tox") == [f"run -qq -e {environment} -- {' '.join(words)}"]


def test_a_person_is_asked_before_anything_is_installed(copy: Path) -> None:
    """No is the response that changes nothing; yes installs, and so does --yes without a question."""
    assert _run(copy, response="n\n") == 1
    assert (_told(copy, "apt"), _told(copy, "tox")) == ([], [])
    assert _run(copy, response="y\n") == 0
    asked = _told(copy, "apt")
    assert asked[0].endswith("update")
    assert "redis-server" in asked[1]
    assert _run(copy, "--yes", response="") == 0
    assert _told(copy, "apt") == asked * 2
