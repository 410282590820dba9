"""Reads a Dockerfile and the allow-list of its context, as far as the project's use them."""

import fnmatch
import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Stage:
    """One `FROM` and what follows it: (instruction, rest of the line)."""

    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def last(self, instruction: str) -> str:
        """The text of the last instruction of a kind. Raises ValueError where there is none."""
        found = [text for name, text in self.steps if name == instruction]
        if not found:
            raise ValueError(f"no {instruction} in {self.base}")
        return found[-1]

    def environment(self) -> dict[str, str]:
        """All ENV of the stage, `$PATH` filled in as the base image has it."""
        found = {"PATH": "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"}
        for name, text in self.steps:
            if name == "ENV":
                for word in shlex.split(text):
                    key, _, value = word.partition("=")
                    found[key] = value.replace("$PATH", found["PATH"])
        return found


def stages(path: Path) -> list[Stage]:
    """The stages of a Dockerfile, in order."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    found: list[Stage] = []
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        if not line.strip():
            continue
        name, _, text = line.strip().partition(" ")
        if name == "FROM":
            base, _, alias = text.partition(" AS ")
            found.append(Stage(alias or str(len(found)), base))
        else:
            found[-1].steps.append((name, text.strip()))
    return found


def words(text: str) -> list[str]:
    """The words of an instruction in JSON form."""
    return [str(word) for word in json.loads(text)]


def context(root: Path = ROOT) -> list[str]:
    """Paths of the files that `docker build .` would send, by .dockerignore: the last rule that matches decides."""
    rules = [line for line in (root / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    sent = []
    for path in sorted(p.relative_to(root).as_posix() for p in _candidates(root)):
        is_ignored = False
        for rule in rules:
            pattern = rule.removeprefix("!").rstrip("/")
            if _matches(path, pattern):
                is_ignored = not rule.startswith("!")
        if not is_ignored:
            sent.append(path)
    return sent


def _candidates(root: Path) -> list[Path]:
    """All files but those of folders that are large and start with a dot (an allow-list never reaches into them)."""
    tops = [p for p in root.iterdir() if not (p.is_dir() and p.name.startswith("."))]
    files = [p for p in tops if p.is_file()]
    return files + [f for top in tops if top.is_dir() and not top.is_symlink() for f in top.rglob("*") if f.is_file()]


def _matches(path: str, pattern: str) -> bool:
    parts = path.split("/")
    heads = ["/".join(parts[: n + 1]) for n in range(len(parts))]
    if pattern.startswith("**/"):
        return any(fnmatch.fnmatchcase(part, pattern.removeprefix("**/")) for part in parts)
    return any(fnmatch.fnmatchcase(head, pattern) for head in heads if head.count("/") == pattern.count("/"))
