"""Golden renderings of every profile: a change shows as a diff in review (`--update` writes them again)."""

import os
from pathlib import Path

import pytest
import yaml

from chart.engine import render
from chart.profiles import profiles, stable

FOLDER = Path(__file__).parent / "snapshots"


class _Dumper(yaml.CSafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(name: str) -> str:
    shown = stable(render(profiles()[name]))
    notes = shown.pop("NOTES")
    for obj in shown.values():
        if obj["kind"] == "ConfigMap" and name != "default":
            obj["data"] = {key: f"({len(value.splitlines())} lines)" for key, value in obj["data"].items()}
    objects = yaml.dump_all([shown[key] for key in sorted(shown)], Dumper=_Dumper, sort_keys=True, allow_unicode=True)
    comment = "".join(f"# {line}".rstrip() + "\n" for line in notes.splitlines())
    return f"{comment}---\n{objects}"


@pytest.mark.parametrize("name", profiles())
def test_a_profile_renders_as_it_is_recorded(name: str) -> None:
    """Notes and objects are what the snapshot says; made-up certificates and keys are masked."""
    file = FOLDER / f"{name}.yaml"
    text = _text(name)
    if os.environ.get("UPDATE_SNAPSHOTS"):
        FOLDER.mkdir(exist_ok=True)
        file.write_text(text)
    assert file.read_text() == text, f"{file.name}: if it is meant, run bin/validate-chart --update"


def test_no_snapshot_is_left_over() -> None:
    """Each file belongs to a profile."""
    assert {f.stem for f in FOLDER.glob("*.yaml")} == set(profiles())
