"""Reads the comments of values.yaml: which path they describe, and under which heading of the README it is listed."""

import re
from dataclasses import dataclass, field
from typing import Any

_KEY = re.compile(r"^( *)([A-Za-z][A-Za-z0-9_./-]*):(?:\s|$)")


@dataclass
class Described:
    """A value that has a `# --` comment."""

    path: str
    section: str
    text: str


@dataclass
class _Reader:
    section: str = ""
    parents: list[tuple[int, str]] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)


def read(source: str) -> list[Described]:
    """Every described value of a values file, in its order."""
    reader, found = _Reader(), []
    for line in source.splitlines():
        stripped = line.strip()
        if stripped.startswith("## "):
            reader.section = stripped.removeprefix("## ")
        elif stripped.startswith("# -- "):
            reader.pending = [stripped.removeprefix("# -- ")]
        elif stripped.startswith("# ") and reader.pending:
            reader.pending.append(stripped.removeprefix("# "))
        elif match := _KEY.match(line):
            indent, name = len(match[1]), match[2]
            reader.parents = [(i, n) for i, n in reader.parents if i < indent] + [(indent, name)]
            if reader.pending:
                path = ".".join(n for _, n in reader.parents)
                found.append(Described(path, reader.section, " ".join(reader.pending)))
            reader.pending = []
    return found


def value_at(values: dict[str, Any], path: str) -> Any:
    """The value of a dotted path."""
    for name in path.split("."):
        values = values[name]
    return values


def leaves(values: dict[str, Any], path: str = "") -> list[str]:
    """Paths of everything that is no map with content. Names that hold a dot are not split up by `value_at`."""
    found: list[str] = []
    for name, value in values.items():
        below = f"{path}.{name}".lstrip(".")
        found += leaves(value, below) if isinstance(value, dict) and value else [below]
    return found
