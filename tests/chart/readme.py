"""Writes the parameter tables of the chart's README from the comments of values.yaml."""

import json
import re
from collections.abc import Iterable
from itertools import groupby
from typing import Any

from chart.comments import Described, value_at

BEGIN = "<!-- parameters: written by bin/validate-chart --update from values.yaml -->"
END = "<!-- end of parameters -->"


def with_tables(readme: str, described: list[Described], values: dict[str, Any]) -> str:
    """The README with the tables between its two marks replaced. Raises ValueError without the marks."""
    before, mark, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (mark and end):
        raise ValueError("README.md has lost the marks around its tables")
    return f"{before}{BEGIN}\n\n{_tables(described, values)}\n{END}{after}"


def _tables(described: Iterable[Described], values: dict[str, Any]) -> str:
    parts = []
    for section, rows in groupby(described, key=lambda row: row.section):
        lines = [f"### {section}", "", "| Parameter | Description | Default |", "|---|---|---|"]
        lines += [f"| `{row.path}` | {_cell(row.text)} | {_default(value_at(values, row.path))} |" for row in rows]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def _default(value: Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, dict) and value:
        return "see values.yaml" if len(json.dumps(value)) > 60 else f"`{json.dumps(value)}`"
    if isinstance(value, list) and value:
        return "see values.yaml"
    return f"`{json.dumps(value, ensure_ascii=False)}`" if not isinstance(value, str) else f"`{_quoted(value)}`"


def _quoted(value: str) -> str:
    return json.dumps(value) if not value or re.fullmatch(r"[0-9.]+|true|false", value) else value
