"""Write docs/reliability.md from the table of the fault tests: `python tools/reliability_page.py PATH`."""

import sys
from pathlib import Path
from typing import Any

import yaml

SOURCE = Path(__file__).parents[1] / "tests" / "faults" / "promises.yaml"
_HEAD = """# Reliability

What the proxy promises while a part of the installation fails. Each sentence is a test, run under load: requests with a
quota, requests without, and a stream. The faults are made with real servers, or on the line to them.

| Fault | What it means |
|---|---|
| stopped | Connections are closed in good order, new ones are refused |
| killed | Connections are reset, new ones are refused |
| frozen | Connections stay and new ones are taken, but nothing responds |
| slow | Each piece of data is 0.15 s late |
| disk full | The part cannot write |
| half-open | Connections of before are dead without a word; new ones work |

```sh
bin/test -e faults                         # all of them, about five minutes
bin/test -- tests/faults -m "not stamina"  # the part that every run of bin/test has
```
"""


def page(parts: list[dict[str, Any]]) -> str:
    """Return the page."""
    out = [_HEAD]
    for part in parts:
        out.append(f"\n## {part['part']}\n\n{part['about']}\n\n| Fault | Promise |\n|---|---|\n")
        out += [f"| {fault} | {sentence} |\n" for fault, sentence in part["cells"].items()]
    return "".join(out)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(yaml.safe_load(SOURCE.read_text())))
