"""The index of decision records, docs/adr/README.md: `python tools/adr_index.py docs/adr`.

The hundreds and tens of a record's number name its area.
"""

import re
import sys
from itertools import groupby
from pathlib import Path

AREAS = (
    (10, "Transport to the provider"),
    (20, "Server layer"),
    (30, "Database, start and audit"),
    (40, "Tests, tools and pages"),
    (50, "Provider file, rules and measuring"),
    (60, "Request path, logs and limits"),
    (70, "Chart, image and release"),
    (80, "Events and dispatcher"),
    (90, "Quotas"),
    (100, "Response cache"),
    (110, "Rate limits, usage and budgets"),
    (120, "Housekeeping"),
    (130, "Audit trail"),
    (140, "Security of the request path"),
    (145, "Usage and event formats"),
    (150, "Files and shared memory"),
    (155, "Clocks, lists and lifetimes"),
    (160, "Clients and providers"),
    (165, "Commands and installation"),
    (170, "Management keys and sign-in"),
    (175, "Structure of the data plane"),
    (180, "WebSocket"),
    (185, "Admin UI"),
    (190, "Chart and image, second part"),
    (195, "Speed"),
    (200, "Documentation, names and tests"),
    (210, "Lists and sums at scale"),
)
_HEAD = """# Decision records

Each record states one decision, with its context, the alternatives and the consequences. A record is not rewritten when
a later one replaces it; its status then names the successor.

This index is made by `python tools/adr_index.py docs/adr`.
"""


def index(folder: Path) -> str:
    """Return the index: one section for each area, one line for each record in the folder."""
    records = sorted(folder.glob("[0-9]*.md"))
    pieces = [_HEAD]
    for area, group in groupby(records, lambda record: _area(int(record.name[:4]))):
        pieces.append(f"\n## {area}\n\n")
        pieces += [f"- [{record.name[:4]} {_title(record)}]({record.name})\n" for record in group]
    pieces.append("\n```{toctree}\n:hidden:\n:glob:\n\n[0-9]*\n```\n")
    return "".join(pieces)


def _area(number: int) -> str:
    return [name for first, name in AREAS if first <= number][-1]


def _title(record: Path) -> str:
    heading = record.read_text().splitlines()[0]
    return re.sub(r"^#\s*\d+[.:]?\s*", "", heading)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    (target / "README.md").write_text(index(target))
