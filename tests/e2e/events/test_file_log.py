"""FILE_EVENT_LOG never holds up a request: a pipe that is not read, and a file that another program has locked."""

import fcntl
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.gateway import eventually, running_gateway
from support.provider import Provider

_CHAT = b'{"model":"gpt-4o","messages":[{"role":"user","content":"%b"}]}' % (b"x" * 2000)
_CALLS = 100


@contextmanager
def _unread_pipe(path: Path) -> Iterator[None]:
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _locked_file(path: Path) -> Iterator[None]:
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.mark.parametrize("blocked", [_unread_pipe, _locked_file])
def test_requests_do_not_wait_for_the_file(
    tmp_path: Path, provider: Provider, blocked: Callable[[Path], object]
) -> None:
    """All are answered while the file takes nothing, and the server ends in time."""
    path = tmp_path / "events.jsonl"
    with blocked(path), running_gateway(tmp_path, provider.url, FILE_EVENT_LOG=str(path)) as gateway:  # type: ignore[attr-defined]
        token = gateway.token()

        def call(_: int) -> int:
            return gateway.ask("POST", "/v1/chat/completions", _CHAT, token=token)[0]

        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(call, range(_CALLS))) == {200}
        assert gateway.get("/live")[0] == 200
        assert gateway.stop(within_s=15) == 0


def test_a_locked_file_loses_nothing(tmp_path: Path, provider: Provider) -> None:
    """The lines are there once the lock is released."""
    path = tmp_path / "events.jsonl"
    with running_gateway(tmp_path, provider.url, FILE_EVENT_LOG=str(path)) as gateway:
        token = gateway.token()
        with _locked_file(path):
            for _ in range(20):
                assert gateway.ask("POST", "/v1/chat/completions", _CHAT, token=token)[0] == 200
        eventually(lambda: len(path.read_bytes().splitlines()) == 20)
