"""What a store is; memory.py and redis.py are two."""

from collections.abc import Sequence
from typing import Protocol

from llm_proxy.cache.entry import Entry
from llm_proxy.cache.scopes import Scope

Fields = Sequence[tuple[str, str]]

MOST_VARIES = 8  # lists of selecting fields that one primary key may have
MOST_KEPT_S = 30 * 86_400.0  # no longer than purges are remembered by far


class Store(Protocol):
    """Keeps entries. No method raises: a store that fails has nothing and keeps nothing, and counts it."""

    is_local: bool  # fast enough to be asked to store while a request waits

    @property
    def is_left_alone(self) -> bool:
        """Whether it has just failed, so that nothing can be found or kept for now."""

    def find(self, primary: str, fields: Fields) -> list[Entry]:
        """Return the entries under a primary key that the request's fields select, the latest first."""

    def put(self, entry: Entry, keep_s: float) -> bool:
        """Keep an entry, in place of one with its key; whether it was kept."""

    def remove(self, scope: Scope, number: int) -> int:
        """Take out what purge `number` covers: entries of the scope from before it; how many entries."""

    def forget_path(self, project: str, path: str) -> None:
        """Invalidate stored GETs of this path of a project and of its parents after a successful write."""

    def announced(self) -> int:
        """Return a number of a purge that others have told of beside the database; 0 = none."""

    def announce(self, number: int) -> None:
        """Tell the others of a purge."""

    def flush(self) -> None:
        """Write down what is written behind."""

    def stored_bytes(self) -> float:
        """Return what it holds; 0 where the backend counts that."""

    def close(self) -> None:
        """Release files and connections."""
