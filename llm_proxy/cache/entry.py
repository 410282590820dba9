"""A stored response, and the forms in which stores keep it."""

import base64
import binascii
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import orjson

Pairs = tuple[tuple[str, str], ...]

FORMAT: Final = "v1"  # of keys and stored forms: what another version stored is not found


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One stored response.

    Attributes:
        key: `v1:<project>:<request part>:<vary part>`.
        target: Method, a space, and path with canonical query: what purges name.
        vary: Names of the request fields that selected it, in upper case.
        fields: As they are sent, without what belongs to one exchange.
        content: The body, still encoded.
        requested_at: When its request left, in seconds since the epoch.
        received_at: When its head was here.
        initial_age_s: What it was old then (RFC 9111 §4.2.3).
        lifetime_s: How long it is fresh, its initial age included.
        is_validated_always: `no-cache`: never served without asking.
        may_be_stale: No directive forbids to serve it stale.
        while_revalidating_s: stale-while-revalidate (RFC 5861).
        if_error_s: stale-if-error.
        number: The purge that was the last when its request left.
        is_stream: It was an event stream.
        is_forced: Its lifetime is the client's wish.
    """

    key: str
    target: str
    vary: tuple[str, ...]
    status: int
    reason: str
    fields: Pairs
    content: bytes = b""
    requested_at: float
    received_at: float
    initial_age_s: float
    lifetime_s: float
    etag: str | None = None
    last_modified: str | None = None
    is_validated_always: bool = False
    may_be_stale: bool = True
    while_revalidating_s: int = 0
    if_error_s: int = 0
    number: int = 0
    is_stream: bool = False
    is_forced: bool = False

    @property
    def primary(self) -> str:
        """The key without its vary part."""
        return self.key.rpartition(":")[0]

    @property
    def project(self) -> str:
        """Whose it is, as it stands in the key."""
        return self.key.split(":", 2)[1]

    @property
    def path(self) -> str:
        """The target's path, raw."""
        return self.target.partition(" ")[2].partition("?")[0]

    @property
    def size_bytes(self) -> int:
        """What it counts for in a store's bound."""
        return len(self.content) + sum(len(name) + len(value) + 4 for name, value in self.fields) + 512

    def age_s(self, now: float) -> float:
        """Its current age."""
        return self.initial_age_s + max(0.0, now - self.received_at)

    def with_content(self, content: bytes) -> "Entry":
        """Return the same entry with its body."""
        return replace(self, content=content)


_NAMES: Final = tuple(field.name for field in fields(Entry) if field.name != "content")


def to_meta(entry: Entry) -> bytes:
    """Everything but the content."""
    return orjson.dumps([getattr(entry, name) for name in _NAMES])


def from_meta(meta: bytes, content: bytes) -> Entry:
    """Return the entry of a stored form. Raises ValueError when it is not of this version."""
    found = orjson.loads(meta)
    if not isinstance(found, list) or len(found) != len(_NAMES):
        raise ValueError("another version's form")
    about: dict[str, Any] = dict(zip(_NAMES, found, strict=True))
    about["vary"] = tuple(about["vary"])
    about["fields"] = tuple((name, value) for name, value in about["fields"])
    return Entry(**about, content=content)


def to_json(entry: Entry, expires_at: float) -> bytes:
    """Redis' form: `status_code`, `headers`, `body`, `vary`, and what RFC 9111 needs beside them."""
    headers: dict[str, list[str]] = {}
    for name, value in entry.fields:
        headers.setdefault(name, []).append(value)
    rest = {name: getattr(entry, name) for name in _NAMES if name not in ("fields", "status", "vary", "received_at")}
    return orjson.dumps(
        {
            "status_code": entry.status,
            "headers": headers,
            "body": base64.b64encode(entry.content).decode(),
            "vary": ", ".join(entry.vary),
            "stored_at": entry.received_at,
            "expires_at": expires_at,
            "v": FORMAT,
            "about": rest,
        }
    )


def from_json(text: bytes) -> Entry:
    """Return the entry of its JSON. Raises ValueError for whatever it cannot read."""
    try:
        found = orjson.loads(text)
        if found["v"] != FORMAT:
            raise ValueError("another version's form")
        entry = Entry(
            **found["about"],
            status=int(found["status_code"]),
            fields=tuple((name, value) for name, lines in found["headers"].items() for value in lines),
            content=base64.b64decode(found["body"], validate=True),
            vary=tuple(name for name in found["vary"].split(", ") if name),
            received_at=float(found["stored_at"]),
        )
        _check(entry)
        return entry
    except (KeyError, TypeError, AttributeError, binascii.Error) as exc:
        raise ValueError("not a stored response") from exc


def _check(entry: Entry) -> None:
    """Raise TypeError for a form that another program has written."""
    texts = (entry.key, entry.target, entry.reason, *(text for field in entry.fields for text in field))
    numbers = (entry.requested_at, entry.initial_age_s, entry.lifetime_s, entry.while_revalidating_s, entry.if_error_s)
    optional = (entry.etag, entry.last_modified)
    if not (
        all(isinstance(text, str) for text in texts)
        and all(isinstance(number, int | float) for number in (*numbers, entry.number))
        and all(text is None or isinstance(text, str) for text in optional)
    ):
        raise TypeError("not a stored response")
