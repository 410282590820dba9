"""runtime.patching: gevent's patches, made in a process of its own."""

import subprocess
import sys

PROBE = """
from importlib import metadata
scans, scan = [], metadata.entry_points
def counted(**wanted):
    scans.append(wanted)
    return scan(**wanted)
metadata.entry_points = counted
from llm_proxy.runtime.patching import patch_all
patch_all()
from gevent import monkey
print(len(scans), metadata.entry_points is counted, monkey.is_module_patched("socket"))
"""


def test_packages_are_looked_through_once() -> None:
    """And the library's function is back afterwards."""
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "True", "True"]
