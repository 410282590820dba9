"""server.loaded_code: whether the files of loaded modules are still those that were loaded."""

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from llm_proxy.server.loaded_code import LoadedCode


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a module that this process has loaded."""
    path = tmp_path / "some_module.py"
    path.write_text("VALUE = 1\n")
    loaded = ModuleType("some_module")
    loaded.__file__ = str(path)
    monkeypatch.setitem(sys.modules, "some_module", loaded)
    return path


def test_untouched_files_have_not_changed(module: Path) -> None:
    """All modules of this process, and one more."""
    code = LoadedCode()
    code.note()
    assert not code.has_changed()


def _replace(path: Path) -> None:
    new = path.with_suffix(".new")
    new.write_text(path.read_text())
    noted = path.stat()
    os.utime(new, ns=(noted.st_atime_ns, noted.st_mtime_ns))
    new.rename(path)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda path: path.write_text("VALUE = 22\n"), id="other-size"),
        pytest.param(lambda path: os.utime(path, ns=(0, 1)), id="other-time"),
        pytest.param(_replace, id="other-file"),
        pytest.param(Path.unlink, id="removed"),
    ],
)
def test_a_file_that_is_another_one_is_seen(module: Path, change: Callable[[Path], object]) -> None:
    """An upgrade writes, replaces or removes files."""
    code = LoadedCode()
    code.note()
    change(module)
    assert code.has_changed()


def test_a_change_is_not_forgotten(module: Path) -> None:
    """What was loaded is old, even when a later upgrade brings the same file back."""
    code = LoadedCode()
    code.note()
    noted, text = module.stat(), module.read_text()
    module.write_text("VALUE = 22\n")
    assert code.has_changed()
    module.write_text(text)
    os.utime(module, ns=(noted.st_atime_ns, noted.st_mtime_ns))
    assert code.has_changed()


def test_drivers_of_other_databases_are_not_loaded() -> None:
    """psycopg2 and PyMySQL with their libraries take 5 MiB of each server on SQLite."""
    code = (
        "import sys; from llm_proxy.server.loaded_code import LoadedCode; LoadedCode().load();"
        "print(sorted({'psycopg2', 'pymysql', 'redis', 'alembic', 'authlib'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_workers_share_is_made_when_all_is_imported() -> None:
    """Before the collector is told to leave everything alone."""
    seen = list[bool]()
    try:
        LoadedCode().load(lambda: seen.append("llm_proxy.app" in sys.modules and gc.get_freeze_count() == 0))
    finally:
        gc.unfreeze()
    assert seen == [True]
