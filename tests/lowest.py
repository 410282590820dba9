"""Writes a requirements file with the oldest versions that setup.cfg allows: `lowest.py setup.cfg OUT`."""

import re
import sys
from configparser import ConfigParser
from pathlib import Path


def lowest(setup_cfg: str) -> list[str]:
    """`name==version` of each requirement `name>=version,<…`, extras included; `1.2` means its newest fix release."""
    found = ConfigParser()
    found.read_string(setup_cfg)
    lines = found["options"]["install_requires"].splitlines()
    for extra in found["options.extras_require"].values():
        lines += extra.splitlines()
    pinned = []
    for line in filter(None, map(str.strip, lines)):
        name, version = re.match(r"([A-Za-z0-9_.\-\[\]]+)>=([0-9.]+)", line).groups()  # type: ignore[union-attr]
        pinned.append(f"{name}=={version}" + ("" if version.count(".") >= 2 else ".*"))
    return pinned


if __name__ == "__main__":
    Path(sys.argv[2]).write_text("\n".join(lowest(Path(sys.argv[1]).read_text())) + "\n")
