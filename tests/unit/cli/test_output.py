"""Tables that fit a terminal, questions before something is destroyed, and closed words."""

import json
import os
import sys

import click
import pytest
import yaml
from click.testing import CliRunner

from llm_proxy.audit.record import OUTCOMES
from llm_proxy.cli import audit, dispatcher, options, output, tokens
from llm_proxy.cli.datetimes import ApiMomentOption
from llm_proxy.cli.errors import CommandError
from llm_proxy.events.dead_letters import REASONS
from llm_proxy.model.token import STATUSES
from llm_proxy.sanitize import wants_colour

ROWS = [
    ("3f6a2c1e-0000-4000-8000-000000000001", "a" * 30, "2026-11-30 13:01Z"),
    ("3f6a2c1e-1111-4000-8000-000000000002", "b", "2026-11-30 13:02Z"),
]
COLUMNS = ("ID", "Name", "Updated")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Standard output and input seem to be a terminal of 40 columns."""
    monkeypatch.setenv("COLUMNS", "50")
    monkeypatch.setattr(output, "is_narrow", lambda: True)
    monkeypatch.setattr(options, "is_terminal", lambda: True)
    return monkeypatch


def test_a_pipe_gets_whole_ids_and_every_column() -> None:
    """Scripts read what they always did."""
    first = output.table(COLUMNS, ROWS, ids=("ID",), optional=("Updated",)).splitlines()[1]
    assert first == "  ".join(ROWS[0])


def test_a_terminal_gets_rows_that_fit(terminal: pytest.MonkeyPatch) -> None:
    """Ids are cut where they still differ, and an optional column is left out."""
    lines = output.table(COLUMNS, ROWS, ids=("ID",), optional=("Updated",)).splitlines()
    assert lines[0].split() == ["ID", "Name"]
    assert [line.split()[0] for line in lines[1:]] == ["3f6a2c1e-0", "3f6a2c1e-1"]
    assert max(map(len, lines)) <= 50


def test_a_question_comes_before_something_is_destroyed(terminal: pytest.MonkeyPatch) -> None:
    """No changes nothing; --yes is not asked; without a terminal nothing is asked."""
    terminal.setattr(click, "confirm", lambda *_, **__: False)
    with pytest.raises(CommandError, match="nothing was changed"):
        options.confirm("Delete?", yes=False)
    options.confirm("Delete?", yes=True)
    terminal.setattr(options, "is_terminal", lambda: False)
    options.confirm("Delete?", yes=False)


def test_a_secret_from_a_terminal_is_not_echoed(terminal: pytest.MonkeyPatch) -> None:
    """`-` asks on a terminal, and reads a line elsewhere."""
    asked = list[object]()

    def prompt(*_: object, **about: object) -> str:
        asked.append(about["hide_input"])
        return " sk-key "

    terminal.setattr(click, "prompt", prompt)
    assert options.read_secret("--openai-key", "-") == "sk-key"
    assert asked == [True]


@pytest.mark.parametrize(("written", "code"), [("project,day", 0), ("day", 0), ("day,week", 2), ("", 2)])
def test_a_list_of_closed_words_is_judged_at_once(written: str, code: int) -> None:
    """The word that is none of them is named with those that are."""
    command = click.Command("x", params=[click.Option(["--by"], type=options.Words("project", "day"))])
    result = CliRunner().invoke(command, ["--by", written])
    assert result.exit_code == code
    assert not code or "is not one of project, day" in result.output


def test_closed_words_are_those_of_the_program() -> None:
    """They stand in the command line once more, so that a help needs no database library."""
    assert (tokens._STATUSES, audit._OUTCOMES, dispatcher._REASONS) == (STATUSES, OUTCOMES, REASONS)


@pytest.mark.parametrize(
    ("environ", "is_wanted"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_colours_are_left_out_where_they_are_not_welcome(
    environ: dict[str, str], is_wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NO_COLOR and a dumb terminal are respected; a pipe is plain."""
    with open(os.devnull) as stream:
        assert not wants_colour(stream, environ)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert wants_colour(sys.stdout, environ) is is_wanted


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("2026-01-31", "2026-01-31"),
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z"),
        ("2026-01-31T12:00:00+02:00", "2026-01-31T12:00:00+02:00"),
        ("2026-01-31T12:00:00", "2026-01-31T12:00:00Z"),
    ],
)
def test_a_day_stays_a_day_for_the_api(written: str, sent: str) -> None:
    """An end that names a day covers all of it, so the server gets the day; a time without a zone is UTC."""
    got = list[str]()
    command = click.Command("x", params=[ApiMomentOption(["--to", "until"])], callback=lambda until: got.append(until))
    assert CliRunner().invoke(command, ["--to", written]).exit_code == 0
    assert got[0].replace(".000000", "") == sent


@click.command()
@output.output_options
def _sample() -> None:
    output.emit([{"name": "ä", "n": None}], lambda: output.table(("Name", "N"), [("ä\x1b[0m", None), ("longer", True)]))


def test_forms_of_output() -> None:
    """A table for people, exactly one document for programs; control characters never reach a terminal."""
    assert CliRunner().invoke(_sample, []).output == "Name    N\nä?[0m   -\nlonger  yes\n"
    assert (
        CliRunner().invoke(_sample, ["--json"]).output
        == json.dumps([{"name": "ä", "n": None}], indent=2, ensure_ascii=False) + "\n"
    )
    assert yaml.safe_load(CliRunner().invoke(_sample, ["-o", "yaml"]).output) == [{"name": "ä", "n": None}]
