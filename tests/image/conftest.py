"""The image, built once, or a line that says what is missing for it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from image import builder, containers


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test waits for the image's steps, which fetch and build on a machine that may be busy."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def image(tell: Callable[[str], object]) -> Iterator[builder.Image | None]:
    """The Dockerfile's last stage, every step of both run."""
    if (lacking := builder.missing()) is not None:
        tell(f"the image's steps: {lacking} missing")
        yield None
        return
    with builder.built() as made:
        yield made


@pytest.fixture
def pod(image: builder.Image | None, tmp_path: Path) -> Iterator[containers.Pod | None]:
    """A fresh pod with empty volumes."""
    if image is None:
        yield None
        return
    image.volumes()
    names = ["llm-proxy", "llm-proxy-postgresql", "llm-proxy-mysql", "llm-proxy-dispatcher", "redis"]
    with containers.pod(image, tmp_path, names) as made:
        yield made
