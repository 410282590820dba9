"""A full disk makes shared files fail with an error, or do without; it never ends the process by SIGBUS."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.small_disk import SmallDisk, small_disk

_ROOM_KIB = 200

_WRITES = """
from llm_proxy.cache.invalidation import WriteTimes
writes = WriteTimes(folder)
fill()
writes.enable()
for number in range(20_000):
    writes.record("p", f"/v1/files/{number}")
assert not writes.is_enabled and writes.last_write("p", "/v1/files/1") == float("inf")
free(3000)
writes.enable()
writes.record("p", "/v1/files/1")
assert writes.is_enabled and 0 < writes.last_write("p", "/v1/files/1") < float("inf")
"""
_GENERATIONS = """
from llm_proxy.cache.l1 import GenerationTable
table = GenerationTable(folder)
fill()
for number in range(20_000):
    table.changed(f"key {number}")
assert table.of("key 1") != table.of("key 1")
free(600)
assert table.of("key 1") == table.of("key 1")
"""
_WINDOWS = """
from llm_proxy.limits.shared_memory import SharedMemoryStore
from llm_proxy.limits.window import Window
store = SharedMemoryStore(folder)
fill()
failed = 0
for number in range(2000):
    try:
        store.take([Window(f"key {number}", 5, 60, "token")])
    except OSError:
        failed += 1
assert failed == 2000
"""
_LEDGER = """
from llm_proxy.accounting.ledger import Ledger
fill()
try:
    Ledger.create(folder)
    raise SystemExit("made")
except OSError:
    pass
assert not list(folder.glob("*.ledger")) and not list(folder.glob("*.new"))
"""
_METRICS = """
from llm_proxy.runtime.metric_files import CountFile, settle_all
path = folder / "counter_7.db"
file = CountFile(str(path))
assert not file.is_in_memory
file.write_value("early", 1.0, 0.0)
fill()
for number in range(5000):
    file.write_value(f"key {number}" + "x" * 100, float(number), 0.0)
file.write_value("early", 2.0, 0.0)
assert file.is_in_memory
other = CountFile(str(folder / "counter_8.db"))
other.write_value("late", 3.0, 0.0)
assert other.is_in_memory and not (folder / "counter_8.db").exists()
free(4000)
settle_all()
assert not file.is_in_memory and not other.is_in_memory
from prometheus_client.mmap_dict import MmapedDict
found = {key: value for key, value, _, _ in MmapedDict.read_all_values_from_file(str(path))}
assert len(found) == 5001 and found["early"] == 2.0 and found["key 4999" + "x" * 100] == 4999.0
assert CountFile(str(path)).read_value("early")[0] == 2.0
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """200 KiB."""
    with small_disk(tmp_path / "disk", _ROOM_KIB) as found:
        yield found


@pytest.mark.parametrize(
    "use",
    [_WRITES, _GENERATIONS, _WINDOWS, _LEDGER, _METRICS],
    ids=["table of writes", "generations", "windows", "ledger", "metrics"],
)
def test_a_full_disk_ends_no_process(disk: SmallDisk, use: str) -> None:
    """The process goes on, and uses the file when there is room."""
    code = f"""
import subprocess
from pathlib import Path
from support.small_disk import SmallDisk
folder = Path({str(disk.path)!r})
fill = SmallDisk(folder).fill
def free(kib):
    subprocess.run(["mount", "-o", f"remount,size={{kib}}k", str(folder)], check=True)
    SmallDisk(folder).free()
{use}
"""
    tests = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": tests}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
