"""Which model names enter the sums: a bounded number of those that clients make up, and none that holds a secret."""

from datetime import date

from llm_proxy.model.project import ProjectSnapshot
from llm_proxy.redaction import redact

MAX_NAMES = 50  # without a price, of one token and day, in one worker
OTHER = "other"  # in place of the names beyond them
_MAX_TOKENS = 10_000


class ModelNames:
    """The names without a price that each token has used today."""

    def __init__(self) -> None:
        self._day: date | None = None
        self._names: dict[str, set[str]] = {}

    def bounded(self, name: str, token_id: str, day: date) -> str:
        """Return the name, or `other` where the token has used too many others today."""
        if day != self._day or (len(self._names) >= _MAX_TOKENS and token_id not in self._names):
            self._day, self._names = day, {}
        known = self._names.setdefault(token_id, set())
        if name not in known:
            if len(known) >= MAX_NAMES:
                return OTHER
            known.add(name)
        return name


def holds_secret(name: str, project: ProjectSnapshot) -> bool:
    """Return whether a key or token stands in what should be a model's name."""
    keys = (project.api_key, *project.provider_keys.values())
    return any(key and key in name for key in keys) or redact(name) != name
