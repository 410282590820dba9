"""The pid file of a detached server."""

import os
from pathlib import Path

import pytest

from llm_proxy.cli import daemon
from llm_proxy.cli.errors import CommandError


def test_pid_files(tmp_path: Path) -> None:
    """A stale one goes, a live one refuses, another file is left alone."""
    path = tmp_path / "sub" / "server.pid"
    daemon.claim(path)
    assert path.parent.is_dir()
    path.write_text("999999999")
    daemon.claim(path)
    assert not path.exists()
    path.write_text(str(os.getpid()))
    with pytest.raises(CommandError, match="already running"):
        daemon.claim(path)
    path.write_text("my notes")
    with pytest.raises(CommandError, match="not an llm-proxy pid file"):
        daemon.claim(path)
    assert path.read_text() == "my notes"
