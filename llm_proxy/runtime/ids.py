"""Ids: UUIDs of version 7 (RFC 9562 §5.7), and which id of a client is accepted."""

import os
import re
import time

_DIGITS = 19  # random hexadecimal digits of an id
_IDS_A_CALL = 100
_ACCEPTED = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_pool: list[str] = []  # popping is atomic: two threads never get the same


def accepted_id(value: str | None) -> str | None:
    """Return a client's id of a request when it has an accepted form, else None."""
    return value if value is not None and _ACCEPTED.fullmatch(value) else None


def uuid7(at_s: float | None = None) -> str:
    """Return a UUID of version 7: sorts by time, 74 random bits.

    Args:
        at_s: The instant that it sorts by, in seconds since 1970; None = now.
    """
    milliseconds = f"{int((time.time() if at_s is None else at_s) * 1000) & 0xFFFFFFFFFFFF:012x}"
    digits = _random_digits()
    variant = "89ab"[int(digits[18], 16) & 3]
    return f"{milliseconds[:8]}-{milliseconds[8:]}-7{digits[:3]}-{variant}{digits[3:6]}-{digits[6:18]}"


def _random_digits() -> str:
    """Return digits from the system, fetched for many ids at once: the call is most of the cost."""
    try:
        return _pool.pop()
    except IndexError:
        digits = os.urandom(_IDS_A_CALL * _DIGITS // 2).hex()
        _pool.extend(digits[start : start + _DIGITS] for start in range(0, len(digits), _DIGITS))
        return _pool.pop()


os.register_at_fork(after_in_child=_pool.clear)  # two processes must not make the same ids
