"""The same cases in a process that gevent has patched, as the server's workers are.

The transport asks for gevent's own sockets, so the suite runs in any process, patched or not; that both are true is
what this module shows.
"""

import subprocess
import sys
from pathlib import Path

import pytest

PATCHED = "from gevent import monkey; monkey.patch_all(); import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"


@pytest.mark.timeout(120)
def test_suite_holds_in_a_patched_process(checkout: Path) -> None:
    """The cases that wait, direct and by TLS, pass behind `monkey.patch_all()`; if not, their output is shown."""
    folder = Path(__file__).parent
    files = [str(folder / f"test_{name}.py") for name in ("sending", "pool", "limits", "cut", "tls")]
    chosen = "not tunnel and not tls or test_tls and not tunnel"
    command = [sys.executable, "-c", PATCHED, *files, "-q", "-k", chosen, "-p", "no:cacheprovider"]
    child = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stdout[-20_000:] + child.stderr[-5_000:]
    assert " passed" in child.stdout
    assert "skipped" not in child.stdout
