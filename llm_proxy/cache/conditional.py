"""Conditional requests: the client's against a stored response (RFC 9110 §13), and the proxy's to validate it."""

from collections.abc import Sequence
from typing import Final

from llm_proxy.cache import directives as parse
from llm_proxy.cache.entry import Entry

CONDITIONALS: Final = frozenset(("IF-NONE-MATCH", "IF-MODIFIED-SINCE", "IF-MATCH", "IF-UNMODIFIED-SINCE", "IF-RANGE"))
_STRONG_AFTER_S: Final = 60.0  # RFC 9110 §8.8.2.2: a date so much older than the response is a strong validator


def is_not_modified(entry: Entry, if_none_match: Sequence[str], if_modified_since: str | None) -> bool:
    """Whether the client has it already (RFC 9110 §13.2.2, RFC 9111 §4.3.2)."""
    if if_none_match:
        wanted = parse.tags(if_none_match)
        if "*" in wanted:
            return True
        return entry.etag is not None and any(parse.is_same_weakly(entry.etag, tag) for tag in wanted)
    since = parse.instant(if_modified_since) if if_modified_since is not None else None
    if since is None:
        return False
    modified = parse.instant(entry.last_modified) if entry.last_modified is not None else None
    return (entry.received_at - entry.initial_age_s if modified is None else modified) <= since


def is_unchanged(entry: Entry, if_range: str | None) -> bool:
    """Whether a part of it fits what the client has (RFC 9110 §13.1.5): strongly compared, or no If-Range."""
    if if_range is None:
        return True
    if entry.etag is not None and not entry.etag.startswith("W/"):
        return if_range.strip() == entry.etag
    if entry.last_modified is None or if_range.strip() != entry.last_modified:
        return False
    modified = parse.instant(entry.last_modified)
    return modified is not None and entry.received_at - entry.initial_age_s - modified >= _STRONG_AFTER_S


def conditions(entry: Entry) -> list[tuple[str, str]]:
    """Return the fields that ask whether a stored response is still good, names in upper case."""
    asked = []
    if entry.etag is not None:
        asked.append(("IF-NONE-MATCH", entry.etag))
    if entry.last_modified is not None:
        asked.append(("IF-MODIFIED-SINCE", entry.last_modified))
    return asked
