"""What becomes of a provider's response, and its body on its way into the store."""

from collections.abc import Callable
from typing import NamedTuple

from llm_proxy.cache.entry import Entry
from llm_proxy.cache.policy import is_for_others
from llm_proxy.cache.streams import is_finished


class BodyRecorder:
    """Collects a response's body while it passes, and stores it when it has come to its end.

    Args:
        entry: The entry without its content.
        keep: Stores the entry and lets those go on that wait for it.
        give_up: Called once when the body is too long to be stored.
        most_bytes: Longest body that is stored.
        expected_bytes: Stored as soon as this much has come, before the last piece goes to the client, which may ask
            again at once; None: stored by `finish`.
    """

    __slots__ = ("_entry", "_expected", "_give_up", "_keep", "_length", "_most_bytes", "_pieces", "is_forced")

    def __init__(
        self,
        entry: Entry,
        *,
        keep: Callable[[Entry], bool],
        give_up: Callable[[], None],
        most_bytes: int,
        expected_bytes: int | None,
    ) -> None:
        self._entry, self._keep, self._give_up = entry, keep, give_up
        self._most_bytes, self._expected = most_bytes, expected_bytes
        self._pieces: list[bytes] = []
        self._length = 0
        self.is_forced = entry.is_forced

    def __call__(self, piece: bytes) -> None:
        """Keep a reference to the piece; past the bound nothing is kept, and the requests that wait go on."""
        if self._length < 0:
            return
        self._length += len(piece)
        if self._length > self._most_bytes:
            self._length = -1
            self._pieces.clear()
            self._give_up()
            return
        self._pieces.append(piece)
        if self._length == self._expected:
            self._length = -1
            self._keep(self._entry.with_content(b"".join(self._pieces)))
            self._pieces.clear()

    @property
    def is_for_others(self) -> bool:
        """Whether waiting requests may have it."""
        return is_for_others(self._entry)

    def finish(self, *, is_whole: bool, is_framed: bool = True) -> Callable[[], bool] | None:
        """End the body. Returns what stores it (which may take a while; the caller's greenlet need not wait).

        Args:
            is_whole: The provider ended it as it should, and the client took all of it.
            is_framed: Its end was marked by more than the connection's.
        """
        if not is_whole or self._length < 0:
            return None
        content = b"".join(self._pieces)
        self._pieces.clear()
        if self._entry.is_stream and not is_finished(content, is_framed=is_framed):
            return None
        entry = self._entry.with_content(content)
        return lambda: self._keep(entry)


class StoreDecision(NamedTuple):
    """What became of a provider's response.

    Attributes:
        entry: To be served in its place: validated, or stale without a better one; None: pass the response on.
        result: `fresh`, `changed` or `failed` where an entry was to be validated, else None.
        capture: Collects the response's body, to be stored; None: it is not.
        reason: Why it is not.
    """

    entry: Entry | None = None
    result: str | None = None
    recorder: BodyRecorder | None = None
    reason: str | None = None
