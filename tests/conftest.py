"""What holds for every test: nothing of this machine's settings, no network but loopback, its own folder."""

import ipaddress
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_proxy.settings import variables

pytest_plugins = [
    "support.databases",
    "support.longest_first",
    "support.provider",
    "support.redis",
    "support.installation",
    "support.unchecked",
]

_OURS = {variable.env for variable in variables().values()}


def pytest_configure(config: pytest.Config) -> None:
    """Take our variables out of the environment, for this process and all that it starts."""
    for name in list(os.environ):
        if name in _OURS or name.removesuffix("_FILE") in _OURS or name == "LLM_PROXY_ENV_FILE":
            del os.environ[name]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder: no `.env` and no ./data of the checkout, or of another test."""
    monkeypatch.chdir(tmp_path_factory.mktemp("cwd"))


@pytest.fixture(autouse=True, scope="session")
def _loopback_only() -> Iterator[None]:
    """A test that wants to reach a foreign host fails instead."""
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex

    def check(address: Any) -> None:
        if isinstance(address, tuple) and not _is_local(str(address[0])):
            raise AssertionError(f"a test wanted to connect to {address[0]}")

    def guarded(self: socket.socket, address: Any) -> None:
        check(address)
        connect(self, address)

    def guarded_ex(self: socket.socket, address: Any) -> int:
        check(address)
        return connect_ex(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        patch.setattr(socket.socket, "connect_ex", guarded_ex)
        yield


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host in ("localhost", "")


@pytest.fixture
def checkout() -> Path:
    """The folder of the source tree."""
    return Path(__file__).parents[1]
