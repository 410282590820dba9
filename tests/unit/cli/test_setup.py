"""`llm-proxy setup` refuses what the server could not use, before it writes anything."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from llm_proxy.cli import root


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder that is the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("LISTEN_ADDR", "DATABASE_PATH", "MANAGEMENT_TOKEN", "ENCRYPTION_KEY", "LOG_LEVEL"):
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


@pytest.mark.parametrize(
    ("line", "answers"),
    [
        ("MANAGEMENT_TOKEN=change-me-to-a-long-random-string", "\nmy-own-management-token-0123456789\n\n\n"),
        ("LISTEN_ADDR=nonsense:xx", "\n\n\nlocalhost:9999\n"),
    ],
)
def test_a_prompt_judges_its_own_value_alone(folder: Path, line: str, answers: str) -> None:
    """What is wrong elsewhere in the file is cured by its own prompt, and ends no other one."""
    (folder / ".env").write_text(f"{line}\n")
    done = setup("--interactive", answers=answers)
    assert done.exit_code == 0, done.stderr
    assert line not in (folder / ".env").read_text()


def test_what_is_never_asked_for_ends_it_with_one_line(folder: Path) -> None:
    """No prompt can cure it."""
    (folder / ".env").write_text("LOG_LEVEL=loud\n")
    done = setup("--interactive", answers="\n\n\n\n")
    assert done.exit_code == 1
    assert "LOG_LEVEL=loud" in done.stderr
    assert done.stderr.count("LOG_LEVEL") == 1


def test_another_file_takes_nothing_of_the_usual_one(folder: Path) -> None:
    """A file that is not there yet is empty: neither faults nor the encryption key come from `.env`."""
    (folder / ".env").write_text("LOG_LEVEL=loud\nENCRYPTION_KEY=a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=\n")
    done = setup("--config", "other.env")
    assert done.exit_code == 0, done.stderr
    assert "ENCRYPTION_KEY=" in (folder / "other.env").read_text()
