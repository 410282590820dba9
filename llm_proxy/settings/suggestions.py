"""Names in the environment that look like misspelled settings."""

from collections.abc import Iterable

from llm_proxy.settings.schema import variables
from llm_proxy.settings.sources import FROM_FILE

_OTHER_NAMES = {"LLM_PROXY_ENV_FILE", "HELICONE_API_KEY", *(f"{name}_FILE" for name in FROM_FILE)}
_SHORTEST_NAME = 8  # shorter names are too often close to a setting
_TYPING_ERRORS = 2


def unknown_variables(names: Iterable[str]) -> list[str]:
    """Return unknown names that look like a misspelled setting: edit distance 1 or 2."""
    known = {v.env for v in variables().values()} | _OTHER_NAMES
    found = []
    for name in names:
        if name in known or len(name) < _SHORTEST_NAME:
            continue
        closest = min((k for k in known if _may_be_near(name, k)), key=lambda k: (_distance(name, k), k), default=None)
        if closest is not None and _distance(name, closest) <= _TYPING_ERRORS:
            found.append(f"{name} is not a setting; did you mean {closest}?")
    return found


def _may_be_near(name: str, known: str) -> bool:
    """Return False when two edits cannot do it: of three parts of `known`, two edits leave at least one as it was."""
    third = len(known) // 3
    parts = (known[:third], known[third : 2 * third], known[2 * third :])
    return abs(len(name) - len(known)) <= _TYPING_ERRORS and any(part in name for part in parts)


def _distance(a: str, b: str) -> int:
    """Levenshtein's distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]
