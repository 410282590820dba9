"""docs/settings.md and .env.example say what the declarations say."""

from pathlib import Path

import pytest

from llm_proxy.settings import load, variables
from llm_proxy.settings.docgen import as_env_example, as_markdown
from llm_proxy.settings.formatting import as_duration, as_size, shown

HOW = "run: python -m llm_proxy.settings.docgen docs/settings.md .env.example"


def test_page_is_up_to_date(checkout: Path) -> None:
    """Every variable with its default, form and meaning, as declared."""
    assert (checkout / "docs" / "settings.md").read_text() == as_markdown(), HOW


def test_example_is_up_to_date(checkout: Path) -> None:
    """Every variable at its default, as declared."""
    assert (checkout / ".env.example").read_text() == as_env_example(), HOW


def test_example_is_refused_as_it_is_and_good_with_a_token(tmp_path: Path) -> None:
    """The sample token stops a start; one line changed, nothing is wrong and all is at its default."""
    file = tmp_path / ".env"
    file.write_text(as_env_example())
    assert len(load({}, file).faults) == 1
    text = as_env_example().replace(load({}, file).settings.operation.management_token, "a-token-of-my-own")
    file.write_text(text)
    loaded = load({}, file)
    assert loaded.faults == []
    assert loaded.settings == load({"MANAGEMENT_TOKEN": "a-token-of-my-own"}).settings


def test_uncommented_example_is_good(tmp_path: Path) -> None:
    """Each commented-out line, taken in, means the default."""
    lines = as_env_example().splitlines()
    taken = [line.removeprefix("# ") for line in lines if line.startswith("# ") and "=" in line.split(" ")[1]]
    known = {variable.env for variable in variables().values()}
    file = tmp_path / ".env"
    file.write_text("\n".join(line for line in taken if line.partition("=")[0] in known and not line.endswith("=")))
    loaded = load({}, file)
    assert loaded.faults == []
    assert loaded.settings == load({}).settings


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0s"), (75.0, "1m15s"), (5400.0, "1h30m"), (0.25, "250ms"), (1.5, "1.5s"), (86400.0, "1d")],
)
def test_durations_are_shown_as_they_are_written(seconds: float, text: str) -> None:
    """What is shown is a form that is understood, with the same value."""
    assert as_duration(seconds) == text
    assert load({"REQUEST_TIMEOUT": text}).settings.upstream.request_timeout_s == (seconds or None) or seconds == 0


@pytest.mark.parametrize(("number", "text"), [(0, "0"), (1000, "1000"), (32 * 1024**2, "32MB"), (1024**3, "1GB")])
def test_sizes_are_shown_as_they_are_written(number: int, text: str) -> None:
    """The same for sizes."""
    assert as_size(number) == text


def test_shown_values_are_read_back() -> None:
    """Setting every variable to what is shown of its default changes nothing."""
    settings = load({}).settings
    environ = {
        variable.env: shown(settings, name)
        for name, variable in variables().items()
        if not variable.secret and shown(settings, name) not in ("unset", "")
    }
    loaded = load(environ)
    assert loaded.faults == []
    assert loaded.settings == settings
