"""A worker's lease of one token, and the times that leases keep."""

import math
import threading

from llm_proxy.errors import LlmProxyError

SYNC_S = 0.4  # ± 10 %: workers should not sync in step
FRESH_S = 0.9  # facts and units older than this are not used without a sync
IDLE_S = 5.0  # then a lease is closed
WAIT_S = 3.0  # for units that others hold
POLL_S = 0.05  # while waiting
STATEMENT_S = 0.25
# The same on SQLite for a request: another worker's transaction lasts for some turns of its event loop, and each of a
# busy one may take 100 ms. Nothing is unavailable meanwhile.
LOCK_S = 2.0
WARM_S = 0.9  # a token that comes back so soon after its lease was closed is in use
FIRST_SLICE, LARGEST_SLICE = 4, 1 << 20


class LeaseSlot:
    """A token in use: this worker's lease of it.

    Attributes:
        at: Its first word in the ledger; -1 once it was freed.
        limit: Units that may be spent in all; never more than the row grants.
        granted: What the row granted at the last sure swap.
        version: The row's version, as last seen.
        synced_at: When the facts were read, in monotonic seconds.
        refusal: Why nothing can be had.
        pending: Units reserved whose first byte was not sent yet.
        is_warm: It is used more than now and then: it may hold units between two uses.
        waiters: Calls on their way to a unit.
        size: Units to hold unspent.
        dry_at: When a sync last had nothing to give.
        lock: One sync at a time.
    """

    __slots__ = (
        "at", "dry_at", "expires_s", "granted", "is_warm", "lease", "limit", "lock", "pending", "refusal",
        "settled_last_s", "size", "spent_at_sync", "synced_at", "token_id", "used_at", "version", "waiters",
    )  # fmt: skip

    def __init__(self, token_id: str, lease: int, at: int, now: float) -> None:
        self.token_id, self.lease, self.at, self.used_at = token_id, lease, at, now
        self.limit: float = 0
        self.granted = self.version = self.pending = self.waiters = self.size = self.spent_at_sync = 0
        self.synced_at = self.dry_at = -math.inf
        self.expires_s, self.settled_last_s = math.inf, 0.0
        self.refusal: type[LlmProxyError] | None = None
        self.is_warm = False
        self.lock = threading.Lock()


class LeaseUnit:
    """One request's charge (`quota.Unit`)."""

    __slots__ = ("is_open", "slot")

    def __init__(self, slot: LeaseSlot) -> None:
        self.slot, self.is_open = slot, True
