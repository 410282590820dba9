"""The env file is edited without losing a line or a character."""

import stat
from pathlib import Path

import pytest

from llm_proxy.cli import envfile

BEFORE = """# mine
export LOG_LEVEL=debug   # keep

OTHER="a # b"
MANAGEMENT_TOKEN=old
"""


def test_env_file_is_edited_in_place(tmp_path: Path) -> None:
    """What is not mentioned stays, a value stays in its place, a new one goes to the end; the old text is kept."""
    path = tmp_path / ".env"
    path.write_text(BEFORE)
    path.chmod(0o644)
    envfile.edit(path, {"MANAGEMENT_TOKEN": "it's new", "OPENAI_API_KEY": "sk-1"}, {"OPENAI_API_KEY": "for setup"})
    expected = BEFORE.replace("MANAGEMENT_TOKEN=old", "MANAGEMENT_TOKEN='it\\'s new'")
    assert path.read_text() == expected + "# for setup\nOPENAI_API_KEY=sk-1\n"
    backup = tmp_path / ".env.bak"
    assert backup.read_text() == BEFORE
    assert [stat.S_IMODE(file.stat().st_mode) for file in (path, backup)] == [0o600, 0o600]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("value", ["plain", "a b", "it's", "back\\slash", "#x", '"q"', "$HOME", "ü", "a=b", "\\'"])
def test_written_values_are_read_back(tmp_path: Path, value: str) -> None:
    """Whatever the characters, the loader sees the value that was written."""
    from dotenv import dotenv_values

    path = tmp_path / ".env"
    envfile.edit(path, {"NAME": value})
    assert dotenv_values(path, interpolate=False) == {"NAME": value}
