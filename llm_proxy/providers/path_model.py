"""The model that a path names: an Azure deployment, Google's `models/NAME:method`."""

import re
from collections.abc import Sequence
from urllib.parse import unquote


class PathModel:
    """The patterns of one provider (`model_from`): `{model}` is one segment or a part of it, `*` anything behind."""

    __slots__ = ("_patterns",)

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = tuple(re.compile(_expression(pattern)) for pattern in patterns)

    def of(self, path: str) -> str | None:
        """Return the model that a raw path names, as a provider that decodes it first reads it; None for none."""
        return self._found(unquote(path))

    def readings(self, path: str) -> tuple[str, ...]:
        """Return the models that a raw path names, decoded before it is taken apart or after that."""
        decoded = self.of(path)
        if "%" not in path:
            return () if decoded is None else (decoded,)
        raw = self._found(path)
        return tuple({model for model in (decoded, None if raw is None else unquote(raw)) if model is not None})

    def _found(self, path: str) -> str | None:
        for pattern in self._patterns:
            found = pattern.fullmatch(path)
            if found is not None:
                return found["model"]
        return None


def _expression(pattern: str) -> str:
    """Return the pattern's expression; a name ends at a slash or a colon, so that nothing is tried twice."""
    return "".join(
        "(?P<model>[^/:]+)" if part == "{model}" else ".*" if part == "*" else re.escape(part)
        for part in re.split(r"(\{model\}|\*)", pattern)
    )
