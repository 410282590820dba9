"""The project's shell scripts, as far as that can be seen without running them."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPTS = sorted(
    path
    for folder in ("bin", ".ci", "docker", "scripts", "tools")
    for path in (ROOT / folder).rglob("*")
    if path.is_file() and path.read_bytes()[:40].startswith((b"#!/usr/bin/env bash", b"#!/bin/bash", b"#!/bin/sh"))
)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_shell_can_read_it(script: Path) -> None:
    """No syntax error, such as the marks of a merge that was left half done."""
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
