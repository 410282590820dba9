"""`llm-proxy setup` refuses what the server could not use, before it writes anything."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from llm_proxy.cli import root


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder that is the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("LISTEN_ADDR", "DATABASE_PATH", "MANAGEMENT_TOKEN", "ENCRYPTION_KEY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def setup(*words: str, answers: str = "") -> Result:
    return CliRunner().invoke(root, ["setup", "--skip-project", *words], input=answers)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--addr", "1:2:3"), "--addr 1:2:3: expected an address"),
        (("--management-token", "change-me-to-a-long-random-string"), "MANAGEMENT_TOKEN=***: expected a value"),
    ],
)
def test_a_wrong_value_writes_nothing(folder: Path, words: tuple[str, ...], named: str) -> None:
    """One line names the option or variable; the folder stays empty, so that the next try begins afresh."""
    done = setup(*words)
    assert done.exit_code == 1
    assert named in done.stderr
    assert list(folder.iterdir()) == []


def test_a_wrong_response_is_asked_for_again(folder: Path) -> None:
    """The prompt says what is expected and comes back; the file holds the second response."""
    done = setup("--interactive", answers="\n\n\nlocalhost:99999\nlocalhost:9999\n")
    assert done.exit_code == 0, done.stderr
    assert "--addr localhost:99999: expected an address" in done.stderr
    assert "LISTEN_ADDR=localhost:9999\n" in (folder / ".env").read_text()
