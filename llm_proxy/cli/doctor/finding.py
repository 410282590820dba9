"""What a check has to say."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from llm_proxy.settings import Loaded, Settings

Level = Literal["fault", "warning", "good"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found.

    Attributes:
        code: `side.what`, stable; tests and scripts go by it.
        level: `fault` ends the command with 1; `good` says what was looked at.
        what: One line, without a secret.
        remedy: What to do; empty where nothing is to be done.
    """

    code: str
    level: Level
    what: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class CheckContext:
    """What the checks look at: the settings as loaded, and the env file that they came from."""

    loaded: Loaded
    env_file: str

    @property
    def settings(self) -> Settings:
        """The settings, with defaults in place of what was faulty."""
        return self.loaded.settings


Check = Callable[[CheckContext], Iterator[Finding]]


def fault(code: str, what: str, remedy: str) -> Finding:
    """Something that keeps the proxy from working as it should."""
    return Finding(code, "fault", what, remedy)


def warning(code: str, what: str, remedy: str) -> Finding:
    """Something that works and is not advisable."""
    return Finding(code, "warning", what, remedy)


def good(code: str, what: str) -> Finding:
    """Return the finding that nothing is wrong."""
    return Finding(code, "good", what)
