"""A process that holds keys leaves no core file."""

import subprocess
import sys


def test_a_process_and_its_children_leave_no_core_file() -> None:
    """Both limits are 0, so that nothing raises them again, and a child inherits them."""
    program = (
        "import resource, subprocess; from llm_proxy.runtime import core_dumps\n"
        "core_dumps.disable(); print(resource.getrlimit(resource.RLIMIT_CORE), flush=True)\n"
        "subprocess.run(['sh', '-c', 'ulimit -H -c'], check=True)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["(0, 0)", "0", ""]
