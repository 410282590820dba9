"""Options that are made from a table of fields."""

from typing import Any

import click
import pytest
from click.testing import CliRunner

from llm_proxy.cli.errors import CommandError
from llm_proxy.cli.fields import body_of, field_options, plain
from llm_proxy.model.fields import Choice, Field, FlatObject, Money, ProviderNames, Quota, Text, Whole

FIELDS = (
    Field("quota", Quota(), "Declared elsewhere.", has_option=False),
    Field("most", Whole(), "A number."),
    Field("max_usd", Money(), "An amount."),
    Field("title", Text(9), "A text."),
    Field("about", FlatObject(), "An object."),
    Field("vendors", ProviderNames(), "A list."),
    Field("level", Choice(("full", "off")), "A word."),
)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [("most", "7", 7), ("most", "none", None), ("max_usd", "2.50", "2.50"), ("title", "none", None),
     ("title", "x", "x"), ("about", '{"a": 1}', {"a": 1}), ("about", "none", None), ("vendors", "a, b", ["a", "b"]),
     ("level", "off", "off")],
)  # fmt: skip
def test_an_option_becomes_a_member(name: str, text: str, value: Any) -> None:
    """Each form is read as the API wants it; an option that was not given is absent."""
    assert body_of(FIELDS, {name: text, "quota": "1", "title" if name != "title" else "most": None}) == {name: value}


@pytest.mark.parametrize(("name", "text"), [("max_usd", "much"), ("about", "{")])
def test_a_wrong_value_names_its_option(name: str, text: str) -> None:
    """The error is the command's, before any call."""
    with pytest.raises(CommandError, match=f"--{name.replace('_', '-')}: expected"):
        body_of(FIELDS, {name: text})


def test_options_stand_in_the_order_of_the_table() -> None:
    """One option for each field that has one, with its help."""

    @click.command()
    @field_options(FIELDS)
    def command(**said: str | None) -> None:
        """Do nothing."""

    shown = CliRunner().invoke(command, ["--help"]).output
    places = [shown.index(field.help) for field in FIELDS[1:]]
    assert places == sorted(places)
    assert "Declared elsewhere" not in shown


@pytest.mark.parametrize(("value", "text"), [(["a", "b"], "a, b"), ({"a": 1}, '{"a": 1}'), (3, 3)])
def test_a_value_is_shown_on_one_line(value: Any, text: Any) -> None:
    """Lists and objects have a form for people."""
    assert plain(value) == text
