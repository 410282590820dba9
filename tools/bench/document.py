"""The bench's tables in docs/performance.md, between marks that name them."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from comparing import lines as feature_lines
from peers import lines as peer_lines


def update(path: Path, report: Mapping[str, Any]) -> None:
    """Replace what stands between the marks of this report's kind. Raises ValueError where the page lacks them."""
    text = path.read_text()
    for name, make in (("features", _features), ("peers", _peers)):
        if name in report:
            text = replaced(text, name, make(report))
    path.write_text(text)


def replaced(text: str, name: str, content: str) -> str:
    """Return the page with other content between `<!-- bench: NAME -->` and `<!-- end -->`."""
    begin, end = f"<!-- bench: {name} -->", "<!-- end -->"
    pattern = re.compile(re.escape(begin) + r".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"the page has no {begin} … {end}")
    return pattern.sub(lambda _: f"{begin}\n\n{content}\n\n{end}", text)


def _conditions(report: Mapping[str, Any]) -> str:
    machine = report["machine"]
    return (
        f"{datetime.now(UTC):%Y-%m-%d}; {machine['cores']} cores, the measured process on one of them and the load on "
        f"another; Python {machine['python']}, {machine['http_parser']} parser; {machine['rounds']} rounds."
    )


def _features(report: Mapping[str, Any]) -> str:
    found = report["features"]
    noise = f"Two gateways that are the same differ by up to {found['noise_percent']:.1f} % (A/A)."
    return "\n\n".join([_table(feature_lines(found)), f"{noise} {_conditions(report)}"])


def _peers(report: Mapping[str, Any]) -> str:
    found = report["peers"]
    unequal = "\n".join(f"- {name}: {row['unequal']}." for name, row in found["rows"].items() if row["unequal"])
    left_out = "\n".join(f"- left out: {name}: {why}" for name, why in found["left_out"].items())
    parts = [_table(peer_lines(found)), _plot(found), _conditions(report), "What is not equal between them:", unequal]
    return "\n\n".join(part for part in [*parts, left_out] if part)


def _plot(found: Mapping[str, Any]) -> str:
    names = ", ".join(f'"{name}"' for name in found["rows"])
    values = ", ".join(f"{row['cpu_us_per_request']:.0f}" for row in found["rows"].values())
    lines = ["```mermaid", "xychart-beta", '    title "CPU per short request"', f"    x-axis [{names}]"]
    return "\n".join([*lines, '    y-axis "µs"', f"    bar [{values}]", "```"])


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *others = rows
    lines = [" | ".join(head), " | ".join("---" for _ in head), *(" | ".join(row) for row in others)]
    return "\n".join(f"| {line} |" for line in lines)
