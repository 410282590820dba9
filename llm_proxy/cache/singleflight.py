"""One of several identical misses goes to the provider, the others wait for what it stores.

Inside a worker the first is the leader. Among the workers of a machine the leaders compete for a lock on one byte of a
file, whose offset is the key's hash: the kernel keeps such locks in no file content, and releases a dead worker's.
"""

import fcntl
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from llm_proxy.cache.entry import Entry
from llm_proxy.cache.l1 import Generation, GenerationTable

WAIT_S: Final = 60.0  # longest wait; then each goes on its own
NOT_STORED_FOR_S: Final = 10.0  # how long no request waits for a key whose response was not stored
_REMEMBERED: Final = 4096
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.002, 0.03


class SharedFetch:
    """An exchange with the provider that others may wait for.

    Attributes:
        is_leader: It is the caller's own to make and to finish.
        was_abandoned: It finished only because its leader's client left: the waiting requests need a new leader.
        published: The response, once its leader has it; it may not be stored yet.
    """

    __slots__ = (
        "_group", "_has_lock", "_is_over", "_leader", "_waiting", "_woken", "key", "published", "was_abandoned",
    )  # fmt: skip

    def __init__(self, group: "SingleFlight", key: str, leader: "SharedFetch | None" = None) -> None:
        self._group, self.key, self._leader = group, key, leader
        self._has_lock = self._is_over = self.was_abandoned = False
        self.published: Entry | None = None
        self._waiting: list[SharedFetch] = []
        self._woken: threading.Event | None = None  # most leaders never wait
        if leader is not None:
            self._woken = threading.Event()
            if leader.published is not None:
                self._publish(leader.published)
            else:
                leader._waiting.append(self)

    @property
    def is_leader(self) -> bool:
        """Whether this request fetches for the others."""
        return self._leader is None

    def wake(self) -> None:
        """Let the waiting request look up; safe in the hub."""
        if self._woken is not None:
            self._woken.set()

    def publish(self, entry: Entry) -> None:
        """Give the whole response to the requests that wait in this worker, before it is stored."""
        if self.is_leader and not self._is_over:
            self.published = entry
            for follower in self._waiting:
                follower._publish(entry)
            self._waiting.clear()

    def _publish(self, entry: Entry) -> None:
        self.published = entry
        self.wake()

    def finish(self, *, is_storable: bool = True, is_abandoned: bool = False) -> None:
        """End a leader's request, or one that will never be stored: all others go on. Repeats do nothing."""
        if self.is_leader and not self._is_over:
            self._is_over = True
            self._group.finished(self, is_storable)
            for follower in self._waiting:
                follower.was_abandoned = is_abandoned
                follower.wake()
            self._waiting.clear()


class SingleFlight:
    """The exchanges of this worker that others may wait for.

    Args:
        folder: The server's folder; None: only this worker's are known.
        clock: Monotonic seconds.
    """

    def __init__(self, folder: Path | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._fetches: dict[str, SharedFetch] = {}
        self._not_stored: dict[str, float] = {}
        self._descriptor: int | None = None
        self._finishes: GenerationTable | None = None
        if folder is not None:
            self._finishes = GenerationTable(folder, "landings")
            self._descriptor = os.open(folder / "flights", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def __len__(self) -> int:
        return len(self._fetches)

    def finishes(self, primary: str) -> Generation | None:
        """Return what differs once a fetch under this primary key has finished, in any worker of the machine."""
        return None if self._finishes is None else self._finishes.of(primary)

    def join(self, key: str) -> SharedFetch | None:
        """Lead a fetch, or join one; None where waiting is useless, because the response is not stored."""
        if self._not_stored:
            until = self._not_stored.get(key)
            if until is not None:
                if self._clock() < until:
                    return None
                del self._not_stored[key]
        leader = self._fetches.get(key)
        if leader is not None:
            return SharedFetch(self, key, leader)
        fetch = self._fetches[key] = SharedFetch(self, key)
        return fetch

    def wait(self, fetch: SharedFetch, until: float) -> bool:
        """Wait for a fetch that one joined, until a monotonic instant or until woken; False when the time is over."""
        assert fetch._woken is not None
        return fetch._woken.wait(max(0.0, until - self._clock()))

    def wait_for_machine(
        self, fetch: SharedFetch, until: float, is_cut: Callable[[], bool], is_there: Callable[[], bool]
    ) -> bool:
        """Wait, as a leader, until no other worker leads the fetch, or `is_there` finds what it has stored.

        Returns whether `is_there` did. After False the caller makes the exchange, alone or not.
        """
        pause_s = _FIRST_PAUSE_S
        while not self.is_free(fetch):
            if self._clock() >= until or is_cut():
                return False
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
            if is_there():
                return True
        return is_there()

    def is_free(self, fetch: SharedFetch) -> bool:
        """Whether no other worker of the machine leads this fetch; from then on none does until it finishes."""
        if self._descriptor is None or fetch._has_lock:
            return True
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _offset(fetch.key))
        except OSError:
            return False
        fetch._has_lock = True
        return True

    def finished(self, fetch: SharedFetch, is_storable: bool) -> None:
        """See SharedFetch.finish."""
        self._fetches.pop(fetch.key, None)
        if is_storable and self._finishes is not None:
            self._finishes.changed(fetch.key.rpartition(":")[0])
        elif not is_storable:
            if len(self._not_stored) >= _REMEMBERED:
                self._not_stored.clear()
            self._not_stored[fetch.key] = self._clock() + NOT_STORED_FOR_S
        if fetch._has_lock and self._descriptor is not None:
            fetch._has_lock = False
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, _offset(fetch.key))

    def close(self) -> None:
        """Release the file, and with it all locks."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        if self._finishes is not None:
            self._finishes.close()
            self._finishes = None


def _offset(key: str) -> int:
    return int(key[-15:], 16)  # 60 bits of the key's hash
