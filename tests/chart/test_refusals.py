"""Combinations that cannot work are refused at render time, by a sentence that says what to set."""

import re
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
import yaml

from chart.engine import CHART, chart, refusal, render, sets

_FILE = yaml.safe_load((Path(__file__).parent / "refusals.yaml").read_text())
CASES: list[dict[str, Any]] = _FILE["cases"]
IDS = [f"{case['check']}-{case['set'][-1]}" for case in CASES]


def values_of(case: dict[str, Any]) -> dict[str, Any]:
    assignments = [a for base in case.get("base", []) for a in _FILE["base"][base]] + case["set"]
    return sets(*assignments)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_combination_that_cannot_work_is_refused(case: dict[str, Any], tmp_path: Path) -> None:
    """The message has the form of a refusal, names the values, and shows no secret."""
    path = _without_schema(tmp_path) if case.get("past_schema") else None
    message = refusal(values_of(case), **({"path": path} if path else {}))
    assert "Configuration error: " in message
    for words in case["says"]:
        assert words in message
    assert "set " in message
    if "hides" in case:
        assert case["hides"] not in message


def _without_schema(folder: Path) -> Path:
    import shutil

    copy = shutil.copytree(CHART, folder / "llm-proxy")
    (copy / "values.schema.json").unlink()
    return copy


def test_every_check_has_a_case() -> None:
    """Each group of checks of _validate.tpl refuses something here."""
    source = (CHART / "templates" / "_validate.tpl").read_text()
    assert {case["check"] for case in CASES} == set(re.findall(r'define "llm-proxy\.faults\.(\w+)"', source))


def test_the_bases_of_the_cases_render() -> None:
    """What a case adds is what is refused, not what it starts from."""
    for name, assignments in _FILE["base"].items():
        assert render(sets(*assignments)).objects, name


def test_several_faults_are_told_at_once() -> None:
    """A user sees all that is wrong in one go."""
    message = refusal(sets("replicaCount=3", "env.LLM_PROXY_EVENT_BUS=redis", "secrets.encryptionKey.required=true"))
    assert message.count("Configuration error: ") == 3


def test_what_fits_the_grace_period_is_taken() -> None:
    """A drain of 130 s fits the default grace period, and one that is set by hand is not overwritten."""
    assert render(sets("env.DRAIN_TIMEOUT=130s")).env()["DRAIN_TIMEOUT"] == "130s"
    assert render().env()["DRAIN_TIMEOUT"] == "130s"
    assert render(sets("terminationGracePeriodSeconds=620")).env()["DRAIN_TIMEOUT"] == "600s"
    assert render(sets("env.SHUTDOWN_GRACE=10s")).env()["DRAIN_TIMEOUT"] == "120s"


@pytest.mark.parametrize(
    "assignments",
    [
        pytest.param(["env.DB_DRIVER=PostgreSQL"], id="alias in mixed case"),
        pytest.param(["env.DB_DRIVER=mariadb"], id="mariadb"),
    ],
)
def test_the_drivers_aliases_stand_for_the_driver(assignments: list[str], tmp_path: Path) -> None:
    """`postgresql` and `mariadb` ask for the same sources as the names that they stand for."""
    message = refusal(sets(*assignments), path=_without_schema(tmp_path))
    assert "no database configuration found" in message


def test_lint_finds_nothing() -> None:
    """`helm lint --strict` is silent for the oldest and newest Kubernetes."""
    for version in ("v1.19.0", "v1.36.0"):
        found = helm.lint(str(chart_path()), strict=True, kube_version=version)
        assert not found["errors"], found
        assert not [m for m in found["messages"] if m["severity"] > 1], found


def chart_path() -> Path:
    assert chart()
    return CHART
