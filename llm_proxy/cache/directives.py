"""What cache fields say: Cache-Control, Age, dates, entity tags. Junk never raises.

Cache-Control is no structured field (RFC 9111 §5.2 is older than RFC 8941), so its list is taken apart by the standard
library's parser of comma lists, which knows quoted strings; docs/adr/0100 says why no other.
"""

import calendar
import re
import time
from collections.abc import Iterable, Mapping
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
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAY, _LONG_DAY = "(?:mon|tue|wed|thu|fri|sat|sun)", "(?:mon|tues|wednes|thurs|fri|satur|sun)day"
_MONTH = f"(?P<month>{'|'.join(_MONTHS)})"
_TIME = "(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_DATES = (
    re.compile(f"{_DAY}, (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_TIME} gmt", re.IGNORECASE | re.ASCII),
    re.compile(f"{_LONG_DAY}, (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_TIME} gmt", re.IGNORECASE | re.ASCII),
    re.compile(f"{_DAY} {_MONTH} (?P<day>[ 0-9][0-9]) {_TIME} (?P<year>[0-9]{{4}})", re.IGNORECASE | re.ASCII),
)


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
    """Return a directive's delta-seconds. None: absent; 0: no number, or given twice with different values."""
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
    """Return the Age field's first member; None when it is absent or no number (RFC 9111 §5.1: ignored)."""
    first = lines[0].partition(",")[0].strip(" \t") if lines else ""
    return _delta(first) if first.isascii() and first.isdigit() else None


def instant(text: str) -> float | None:
    """Return an HTTP-date (RFC 9110 §5.6.7) as seconds since the epoch; None when it is none.

    Its three forms and no other, in any case (RFC 9111 §4.2). A zone other than GMT, a year of two digits outside of
    the RFC 850 form, other separators or more blanks make it invalid.
    """
    for form in _DATES:
        if (found := form.fullmatch(text)) is not None:
            return _seconds(found)
    return None


def _seconds(found: re.Match[str]) -> float | None:
    year = int(found["year"])
    if len(found["year"]) == 2:  # the past one when it would be more than 50 years ahead (RFC 9110 §5.6.7)
        this = time.gmtime().tm_year
        year += this - this % 100
        year -= 100 * (year > this + 50)
    month = _MONTHS.index(found["month"].lower()) + 1
    day, hour, minute, second = (int(found[name]) for name in ("day", "hour", "minute", "second"))
    if not (hour < 24 and minute < 60 and second <= 60 and 1 <= day <= calendar.monthrange(max(year, 1), month)[1]):
        return None
    return float(calendar.timegm((year, month, day, hour, minute, second, 0, 0, 0)))


def tags(lines: Iterable[str]) -> list[str]:
    """Return the entity tags of If-None-Match, as written; `*` stands for itself."""
    return [found for line in lines for found in _TAG.findall(line)]


def is_same_weakly(one: str, other: str) -> bool:
    """Weak comparison (RFC 9110 §8.8.3.2)."""
    return one.removeprefix("W/") == other.removeprefix("W/")
