"""What becomes of a provider's answer, and its body on its way into the store."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from llm_proxy.cache.entry import Entry
from llm_proxy.cache.policy import is_for_others, keep_s
from llm_proxy.cache.streams import is_finished

if TYPE_CHECKING:
    from llm_proxy.cache.engine import Inquiry, ResponseCache

_STALE_KEPT_HERE_S: Final = 60.0  # for max-stale, where room costs nothing


class Capture:
    """Collects an answer's body while it passes, and stores it when it has come to its end.

    A body of known length is stored on this machine before its last piece goes to the client, who may ask again
    at once.
    """

    __slots__ = ("_cache", "_entry", "_expected", "_inquiry", "_length", "_pieces", "is_forced")

    def __init__(self, cache: "ResponseCache", entry: Entry, inquiry: "Inquiry", expected: int | None) -> None:
        self._cache, self._entry, self._inquiry = cache, entry, inquiry
        self._expected = expected if cache.store.is_local else None
        self._pieces: list[bytes] = []
        self._length = 0
        self.is_forced = entry.is_forced

    def __call__(self, piece: bytes) -> None:
        """A tap: keep a reference; past the bound nothing is kept, and those who wait for it go on."""
        if self._length < 0:
            return
        self._length += len(piece)
        if self._length > self._cache.rules.most_bytes:
            self._length = -1
            self._pieces.clear()
            self._inquiry.land(is_storable=False)
            return
        self._pieces.append(piece)
        if self._length == self._expected:
            self._length = -1
            self._inquiry.keep(self._entry.with_content(b"".join(self._pieces)))
            self._pieces.clear()

    @property
    def is_for_others(self) -> bool:
        """Whether those who wait may have it."""
        return is_for_others(self._entry)

    def finish(self, *, is_whole: bool, is_framed: bool = True) -> Callable[[], bool] | None:
        """The answer is over. Returns what stores it (where that may take a while, the caller's greenlet need not).

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
        return lambda: self._inquiry.keep(entry)


def keep(cache: "ResponseCache", entry: Entry) -> bool:
    """Store an entry for as long as it is of use."""
    left_s = entry.lifetime_s - entry.age_s(cache.clock())
    more_s = keep_s(entry) or (_STALE_KEPT_HERE_S if cache.store.is_local else 0.0)
    is_kept = cache.store.put(entry, max(0.0, left_s) + more_s)
    if is_kept:
        cache.counts.stored()
    return is_kept


class Answered(NamedTuple):
    """What became of a provider's answer.

    Attributes:
        entry: To be served in its place: validated, or stale for want of better; None: the answer itself is passed on.
        result: `fresh`, `changed` or `failed` where an entry was to be validated, else None.
        capture: Collects the answer's body, to be stored; None: it is not.
        reason: Why it is not.
    """

    entry: Entry | None = None
    result: str | None = None
    capture: Capture | None = None
    reason: str | None = None
