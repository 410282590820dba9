"""Say at the end of a run what could not be checked on this machine, and what is missing for it."""

from collections.abc import Callable

import pytest

_MISSING: dict[str, None] = {}


@pytest.fixture(scope="session")
def tell() -> Callable[[str], object]:
    """Note a line for the end of the run: a check that needs what this machine has not."""
    return _MISSING.setdefault


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each thing that is missing."""
    for line in _MISSING:
        terminalreporter.write_line(f"not checked here: {line}")
