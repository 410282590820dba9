"""Targeted cache control: CDN-Cache-Control, which shared caches obey in place of Cache-Control (RFC 9213).

Unlike Cache-Control it is a structured field, a dictionary (RFC 9651 §3.2): what does not parse, names a directive with
a value of the wrong type, or is empty counts as absent (RFC 9213 §2.1).
"""

import re
from types import MappingProxyType
from typing import Final

from llm_proxy.cache.directives import NONE, Directives, Fields, directives, values

FIELD: Final = "cdn-cache-control"
_KEY = r"[a-z*][a-z0-9_.*-]*"
_ITEM = (
    r"-?[0-9]{1,15}(?:\.[0-9]{1,3})?"
    r'|"(?:[ !#-\[\]-~]|\\["\\])*"'
    r"|[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*"
    r"|:[A-Za-z0-9+/=]*:"
    r"|\?[01]"
)
_PARAMETERS = rf"(?:; *{_KEY}(?:=(?:{_ITEM}))?)*"
_MEMBER = re.compile(rf"({_KEY})(?:=({_ITEM}|\([ -'*-~]*\)))?{_PARAMETERS}")
_COMMA = re.compile(r"[ \t]*,[ \t]*")
_INTEGER = re.compile(r"[0-9]{1,15}")
_IN_SECONDS: Final = frozenset(("max-age", "s-maxage", "stale-while-revalidate", "stale-if-error"))


def response_directives(fields: Fields) -> tuple[Directives, bool]:
    """Return a response's directives for this cache, and whether they are targeted: Expires is no use beside those."""
    lines = values(fields, FIELD)
    targeted = parsed(", ".join(lines)) if lines else NONE
    return (targeted, True) if targeted else (directives(values(fields, "cache-control")), False)


def parsed(text: str) -> Directives:
    """Return the directives of the field's lines, joined; none where they are no dictionary."""
    text = text.strip(" ")
    found: dict[str, tuple[str | None, ...]] = {}
    at = 0
    while at < len(text):
        member = _MEMBER.match(text, at)
        if member is None:
            return NONE
        name, value = member[1], member[2]
        if name in _IN_SECONDS and (value is None or _INTEGER.fullmatch(value) is None):
            return NONE
        found.pop(name, None)  # the last of several counts
        if value != "?0":
            found[name] = (None if value in (None, "?1") else value.strip('"'),)
        at = member.end()
        if at < len(text):
            comma = _COMMA.match(text, at)
            if comma is None or comma.end() == len(text):
                return NONE
            at = comma.end()
    return MappingProxyType(found)
