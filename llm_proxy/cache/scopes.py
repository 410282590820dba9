"""What a purge takes away."""

from dataclasses import dataclass
from typing import Any

import orjson

from llm_proxy.cache.entry import Entry
from llm_proxy.cache.key import canonical_target, project_part


@dataclass(frozen=True, slots=True)
class Scope:
    """One purge's scope; exactly one of `key`, `target`, `prefix`, `is_all` is set, or `project` alone.

    Attributes:
        key: A whole key, as X-PROXY-CACHE-KEY shows it.
        target: Method and address, canonical: all variants and bodies, in all projects unless one is named.
        prefix: Of the URL's path when it begins with `/`, else of keys. Each character means itself.
        project: All that is this project's, or a bound of `target` and `prefix`.
        is_all: Everything.
    """

    key: str | None = None
    target: str | None = None
    prefix: str | None = None
    project: str | None = None
    is_all: bool = False

    @classmethod
    def of_address(cls, method: str, url: str, project: str | None = None) -> "Scope":
        """One address: of a whole URL, path and query count."""
        _, separator, rest = url.partition("://")
        if separator:
            url = "/" + rest.partition("/")[2]
        path, _, query = url.partition("#")[0].partition("?")
        return cls(target=canonical_target(method.upper(), path, query), project=project)

    @property
    def project_in_keys(self) -> str | None:
        """The project as keys have it."""
        return None if self.project is None else project_part(self.project)

    def covers(self, entry: Entry) -> bool:
        """Whether the purge takes this entry away."""
        if self.is_all:
            return True
        if self.project is not None and entry.project != self.project_in_keys:
            return False
        if self.key is not None:
            return entry.key == self.key
        if self.target is not None:
            return entry.target == self.target
        if self.prefix is not None:
            where = entry.target.partition(" ")[2] if self.prefix.startswith("/") else entry.key
            return where.startswith(self.prefix)
        return self.project is not None

    def to_text(self) -> str:
        """Return the form of the column `cache_purges.scope`."""
        about = {"key": self.key, "target": self.target, "prefix": self.prefix, "project": self.project}
        found: dict[str, Any] = {name: value for name, value in about.items() if value is not None}
        return orjson.dumps({"all": True} if self.is_all else found).decode()

    @classmethod
    def from_text(cls, text: str) -> "Scope":
        """Return the scope of the stored text.

        An unreadable one covers everything: too much is safe, too little is not.
        """
        try:
            found = orjson.loads(text)
            known = {name: found.get(name) for name in ("key", "target", "prefix", "project")}
            if any(value is not None for value in known.values()):
                return cls(**known)
        except (ValueError, AttributeError, TypeError):
            pass  # falls through to the safe reading
        return cls(is_all=True)
