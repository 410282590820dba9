"""Comparing clocks."""

import time
from collections.abc import Iterator

from llm_proxy.cli.doctor.finding import Finding, fault, good

MOST_S = 30.0


def compare(whose: str, theirs_s: float, asked_at_s: float) -> Iterator[Finding]:
    """Yield a finding about another clock.

    Args:
        whose: Its name in the code `clock.<whose>`.
        theirs_s: What it said, seconds since 1970.
        asked_at_s: When it was asked, by this machine's clock; half the way is subtracted.
    """
    off_s = theirs_s - (asked_at_s + time.time()) / 2
    if abs(off_s) > MOST_S:
        side = "ahead of" if off_s > 0 else "behind"
        what = f"the {whose}'s clock is {abs(off_s):.0f} s {side} this machine's"
        yield fault(f"clock.{whose}", what, "synchronise both (NTP): expiry, windows and leases go by the clock")
    else:
        yield good(f"clock.{whose}", f"the {whose}'s clock agrees")
