"""A chart user's mistakes are refused by a message that names the value."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from chart import schema
from chart.engine import CHART, refusal, render, sets
from chart.profiles import profiles
from chart.update import derived

MISTAKES: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "wrong_values.yaml").read_text())


@pytest.mark.parametrize("mistake", MISTAKES, ids=[m["set"] for m in MISTAKES])
def test_a_mistake_is_refused_by_name(mistake: dict[str, Any]) -> None:
    """The path of the value is in the message."""
    message = refusal(sets(mistake["set"]))
    for words in mistake["says"]:
        assert any(word in message for word in words.split("|")), message


def test_there_are_forty_mistakes_and_more() -> None:
    """Fewer would leave parts of the values without a check."""
    assert len(MISTAKES) >= 40


def test_the_schema_is_a_valid_draft_07_schema() -> None:
    """Helm before 3.18 knows no newer draft."""
    jsonschema.Draft7Validator.check_schema(_committed())


def _committed() -> dict[str, Any]:
    import json

    return dict(json.loads((CHART / "values.schema.json").read_text()))


def test_what_is_derived_from_the_values_is_up_to_date() -> None:
    """Schema, defaults and the README's tables are what `bin/validate-chart --update` would write."""
    for path, text in derived().items():
        assert path.read_text() == text, f"{path.name}: run bin/validate-chart --update"


def test_the_defaults_and_every_profile_pass_the_schema() -> None:
    """Nothing that the chart ships is refused by its own schema."""
    validator = jsonschema.Draft7Validator(_committed())
    validator.validate(yaml.safe_load((CHART / "values.yaml").read_text()))
    for values in profiles().values():
        validator.validate(values)


def test_every_level_of_the_charts_own_is_closed() -> None:
    """A misspelt name is refused at every depth, free maps aside."""

    def walk(node: dict[str, Any], path: str) -> None:
        if "properties" in node and path not in ("/env", "/global"):  # a parent chart has its own values there
            assert node["additionalProperties"] is False, path
        for name, below in node.get("properties", {}).items():
            walk(below, f"{path}/{name}")

    walk(_committed(), "")
    assert schema.RULES


@pytest.mark.parametrize("value", ["env.A=1", "env.A=1.5", "env.A=true", "env.A=text", "env.A=null"])
def test_variables_may_be_text_numbers_or_booleans(value: str) -> None:
    """Each arrives as the text that was written; null takes a variable out."""
    env = render(sets(value)).env()
    assert env.get("A") == {"null": None}.get(value.removeprefix("env.A="), value.removeprefix("env.A="))


def test_big_numbers_keep_their_digits() -> None:
    """10485760 in a values file does not become 1.048576e+07."""
    values = yaml.safe_load("env: {HTTP_CACHE_MAX_OBJECT_BYTES: 10485760, BIG: 123456789012}")
    env = render(values).env()
    assert (env["HTTP_CACHE_MAX_OBJECT_BYTES"], env["BIG"]) == ("10485760", "123456789012")
