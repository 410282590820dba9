"""What most tests of the whole proxy need."""

from collections.abc import Iterator

import pytest
from support.provider import Provider, running_provider


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    """The simulated provider."""
    with running_provider(tmp_path_factory.mktemp("provider"), "--interval", "0") as running:
        yield running
