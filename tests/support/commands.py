"""Commands through both programs, as their own processes."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

PROGRAMS = {
    "llm-proxy": [sys.executable, "-m", "llm_proxy.cli"],
    "flask": [sys.executable, "-m", "flask", "--app", "llm_proxy.wsgi"],
}
_KEPT = ("PATH", "HOME", "LANG", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")


def plain_environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a process needs to run, and what is said; nothing else of this machine."""
    return {name: os.environ[name] for name in _KEPT if name in os.environ} | dict(variables or {})


def run(
    *arguments: str,
    program: str = "llm-proxy",
    variables: Mapping[str, str] | None = None,
    folder: Path | None = None,
    stdin: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        [*PROGRAMS[program], *arguments],
        env=plain_environment(variables),
        cwd=folder,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
