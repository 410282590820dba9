"""A served proxy that commands talk to."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.gateway import MANAGEMENT_TOKEN, Gateway, running_gateway
from support.provider import Provider


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, provider: Provider) -> Iterator[Gateway]:
    """A proxy for a module's tests."""
    with running_gateway(tmp_path_factory.mktemp("gateway"), provider.url) as gateway:
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
