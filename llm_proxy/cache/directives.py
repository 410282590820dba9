"""What cache fields say: Cache-Control, Age, dates, entity tags. Junk never raises; it counts as the cautious reading.

Cache-Control is no structured field (RFC 9111 §5.2 is older than RFC 8941), so its list is taken apart by the standard
library's parser of comma lists, which knows quoted strings; docs/adr/0100 says why no other.
"""

import calendar
import re
import time
from collections.abc import Iterable, Mapping
from email.utils import formatdate, parsedate_tz
from functools import lru_cache
from types import MappingProxyType
from typing import Final
from urllib.request import parse_http_list

Fields = Iterable[tuple[str, str]]
Directives = Mapping[str, tuple[str | None, ...]]

MOST_S: Final = 1 << 31  # RFC 9111 §1.2.2: what is larger counts as this
NONE: Final[Directives] = MappingProxyType({})
_REMEMBERED_CHARS = 512
_TAG = re.compile(r'(?:W/)?"[^"]*"|\*|[^\s,"]+')
_ZONES = frozenset((0, None))


def values(fields: Fields, name: str) -> list[str]:
    """Values of all lines of a field, in order; `name` in lower case."""
    return [value for known, value in fields if known.lower() == name]


def directives(lines: Iterable[str]) -> Directives:
    """Directives by name in lower case, each with all its values; several lines are one list (RFC 9110 §5.3)."""
    text = ",".join(lines)
    if not text:
        return NONE
    return _remembered(text) if len(text) <= _REMEMBERED_CHARS else _parsed(text)


def _parsed(text: str) -> Directives:
    found: dict[str, list[str | None]] = {}
    for item in parse_http_list(text):
        name, sign, value = item.partition("=")
        if sign and len(value) >= 2 and value[0] == value[-1] == '"':
            value = value[1:-1]
        found.setdefault(name.lower(), []).append(value if sign else None)
    found.pop("", None)
    return MappingProxyType({name: tuple(values) for name, values in found.items()})


_remembered = lru_cache(1024)(_parsed)


def seconds(parsed: Directives, name: str) -> int | None:
    """A directive's delta-seconds. None: it is not there; 0: it is no number, or given twice with different values."""
    given = parsed.get(name)
    if given is None:
        return None
    numbers = {_delta(value) for value in given}
    return numbers.pop() if len(numbers) == 1 else 0


def _delta(value: str | None) -> int:
    if value is None or not (value.isascii() and value.isdigit()):
        return 0
    digits = value.lstrip("0")
    return min(int(digits or "0"), MOST_S) if len(digits) <= 10 else MOST_S


def age(lines: list[str]) -> int | None:
    """The Age field; None when it is not there. Anything but one plain number counts as very old."""
    if not lines:
        return None
    value = lines[0].strip()
    return _delta(value) if len(lines) == 1 and value.isascii() and value.isdigit() else MOST_S


def instant(text: str) -> float | None:
    """An HTTP-date (RFC 9110 §5.6.7, its obsolete forms included) as seconds since the epoch; None when it is none."""
    try:
        found = parsedate_tz(text)
        if found is None or found[9] not in _ZONES or not 0 <= found[3] < 24:
            return None
        return float(calendar.timegm((*found[:6], 0, 0, 0)))
    except (ValueError, TypeError, IndexError, OverflowError):  # the library promises None, for most junk
        return None


def http_date(at: float | None = None) -> str:
    """IMF-fixdate."""
    return formatdate(time.time() if at is None else at, usegmt=True)


def tags(lines: Iterable[str]) -> list[str]:
    """The entity tags of If-None-Match, as written; `*` stands for itself."""
    return [found for line in lines for found in _TAG.findall(line)]


def is_same_weakly(one: str, other: str) -> bool:
    """Weak comparison (RFC 9110 §8.8.3.2)."""
    return one.removeprefix("W/") == other.removeprefix("W/")
