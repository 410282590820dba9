"""A served proxy that commands talk to."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.gateway import MANAGEMENT_TOKEN, Gateway, running_gateway
from support.provider import Provider, running_provider


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    """A simulated provider for a module's tests."""
    with running_provider(tmp_path_factory.mktemp("provider"), "--interval", "0") as provider:
        yield provider


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, simulated: Provider) -> Iterator[Gateway]:
    """A proxy for a module's tests."""
    with running_gateway(tmp_path_factory.mktemp("gateway"), simulated.url) as gateway:
        yield gateway


@pytest.fixture
def manages(served: Gateway) -> dict[str, str]:
    """Variables with which `manage` reaches the proxy."""
    return {"MANAGEMENT_TOKEN": MANAGEMENT_TOKEN, "MANAGEMENT_API_BASE_URL": served.url}


@pytest.fixture
def alone(tmp_path: Path) -> dict[str, str]:
    """Variables of a database of one's own, in the test's folder."""
    return {
        "DATABASE_PATH": str(tmp_path / "data" / "llm-proxy.db"),
        "AUDIT_LOG_FILE": str(tmp_path / "data" / "audit.log"),
    }
