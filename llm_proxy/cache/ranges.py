"""One byte range of a whole stored response (RFC 9110 §14)."""

import re

_RANGE = re.compile(r"bytes=(\d{0,99})-(\d{0,99})", re.IGNORECASE)


def wanted(field: str, length: int) -> tuple[int, int] | None:
    """First byte and the one behind the last, of one satisfiable range; None for everything else, which is ignored."""
    found = _RANGE.fullmatch(field.strip())
    if found is None or not length:
        return None
    first, last = found[1], found[2]
    if not first:
        return (max(0, length - int(last)), length) if last and int(last) else None
    start, end = int(first), min(int(last) + 1, length) if last else length
    return (start, end) if start < end else None
