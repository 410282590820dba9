"""Values of options: numbers that may be null, and secrets."""

from pathlib import Path
from typing import Any

import pytest

from llm_proxy.cli.errors import CommandError
from llm_proxy.cli.options import nullable, read_secret


@pytest.mark.parametrize(("written", "value"), [("5", 5), ("none", None), ("0.25", "0.25"), ("0", 0)])
def test_nullable_numbers(written: str, value: Any) -> None:
    """`none` is null, decimals stay texts so that no digit is lost."""
    assert nullable("max_cost_usd", written) == value


def test_nullable_refuses_words() -> None:
    """The message names the flag."""
    with pytest.raises(CommandError, match="--max-cost-usd: expected a number or none"):
        nullable("max_cost_usd", "much")


def test_secret_from_file_stdin_or_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """@file and - are read, blanks around it are no part of it."""
    import io

    (tmp_path / "key").write_text("sk-file\n")
    assert read_secret("--key", f"@{tmp_path / 'key'}") == "sk-file"
    assert read_secret("--key", " sk-plain ") == "sk-plain"
    monkeypatch.setattr("sys.stdin", io.StringIO("sk-stdin\nrest"))
    assert read_secret("--key", "-") == "sk-stdin"
    assert read_secret("--key", None, prompt="Key") is None
    with pytest.raises(CommandError, match="missing cannot be read"):
        read_secret("--key", "@missing")
