"""Durations of tokens as people write them."""

import pytest

from llm_proxy.cli.errors import CommandError
from llm_proxy.cli.tokens import duration_minutes


@pytest.mark.parametrize(
    ("written", "minutes"), [("1440", 1440), ("90m", 90), ("24h", 1440), ("7d", 10080), ("1h30m", 90), ("90s", 2)]
)
def test_duration_is_minutes_unless_it_has_a_unit(written: str, minutes: int) -> None:
    """A bare number is minutes; a part of a minute counts as a whole one."""
    assert duration_minutes(written) == minutes


def test_short_bare_duration_gets_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    """24 is likely to be meant as hours: said, not assumed."""
    assert duration_minutes("24") == 24
    assert "24 means minutes" in capsys.readouterr().err
    assert duration_minutes("24m") == 24
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("written", ["0", "0h", "-5", "soon", ""])
def test_bad_duration_is_an_error(written: str) -> None:
    """Never a silent default."""
    with pytest.raises(CommandError, match="--duration"):
        duration_minutes(written)
