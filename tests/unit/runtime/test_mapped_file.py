"""Memory-mapped files: the lock between processes."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from llm_proxy.runtime import mapped_file
from llm_proxy.runtime.mapped_file import MappedFile

Pair = tuple[MappedFile, MappedFile]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """One file, opened twice: each has its own descriptor, as two processes have."""
    one, other = MappedFile(tmp_path / "a", 64), MappedFile(tmp_path / "a", 64)
    yield one, other
    one.close()
    other.close()


def test_a_holder_without_a_processor_is_waited_for(pair: Pair) -> None:
    """A holder that runs on after 100 ms loses nothing: the other's block begins when it has ended."""
    one, other = pair
    steps = []
    inside = threading.Event()

    def hold() -> None:
        with one.locked():
            inside.set()
            time.sleep(0.1)
            steps.append("one")

    holder = threading.Thread(target=hold)
    holder.start()
    assert inside.wait(5)
    with other.locked():
        steps.append("other")
    holder.join()
    assert steps == ["one", "other"]


def test_a_stopped_holder_delays_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first wait the next ones are short; a lock that was free meanwhile is waited for in full."""
    monkeypatch.setattr(mapped_file, "_LOCK_LIMIT_S", 0.2)
    monkeypatch.setattr(mapped_file, "_STUCK_LOCK_LIMIT_S", 0.0)
    one, other = MappedFile(tmp_path / "a", 64), MappedFile(tmp_path / "a", 64)
    took_s = []

    def enter() -> None:
        began = time.monotonic()
        with other.locked():
            took_s.append(time.monotonic() - began)

    with ExitStack() as held:
        held.enter_context(one.locked())
        enter()
        enter()
        enter()
    enter()
    with one.locked():
        enter()
    one.close()
    other.close()
    assert took_s[0] >= 0.2
    assert min(took_s[1:3]) < 0.2
    assert took_s[4] >= 0.2
