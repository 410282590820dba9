"""Chains of audit records: each hash covers the record and the hash of the one before it.

A writer is the process that assigns the numbers of one chain. A chain proves that no record between two known ones was
changed, left out or inserted; an attacker with full write access can still make a new one (docs/security.md).
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from llm_proxy.model.audit_actions import AuditAction
from llm_proxy.runtime.clock import rfc3339
from llm_proxy.sanitize import printable

ANCHOR = AuditAction.AUDIT_ANCHOR  # what was taken off a chain's head, itself a record of a chain
UNHASHED = "hash"
_END = re.compile(rb',"hash":"([0-9a-f]{64})"\}$')


@dataclass(frozen=True, slots=True)
class Link:
    """A place in a chain: a record's number, and its hash as 64 hexadecimal digits."""

    seq: int
    hash: str

    def details(self, writer: str) -> dict[str, Any]:
        """Return the details of an anchor: everything up to here was removed from the head of that writer's chain."""
        return {"writer": writer, "removed_seq": self.seq, "removed_hash": self.hash}


START = Link(0, "0" * 64)  # before the first record


@dataclass(frozen=True, slots=True)
class Fault:
    """The first record of a chain at which it is broken.

    Attributes:
        kind: `missing record`, `changed record`, `missing tail`, `changed writer`, `unknown writer` or `missing chain`.
        detail: How it shows, in a few words.
    """

    kind: str
    writer: str
    seq: int
    detail: str

    def __str__(self) -> str:
        text = f"writer {self.writer} seq {self.seq}: {self.kind}: {self.detail}"
        return printable(text)

    def to_json(self) -> dict[str, Any]:
        """For output."""
        return {"kind": self.kind, "writer": self.writer, "seq": self.seq, "detail": self.detail}


@dataclass(frozen=True, slots=True)
class Entry:
    """A record as it was found. `computed` is the hash of its content, None when that can't be told."""

    writer: str
    seq: int
    prev_hash: str
    hash: str
    computed: str | None

    @property
    def link(self) -> Link:
        """Its place."""
        return Link(self.seq, self.hash)


def follow(entry: Entry, at: Link) -> Fault | None:
    """Return what is wrong with the record that comes after `at`; None when it is the right one, unchanged."""
    if entry.seq > at.seq + 1:
        return Fault("missing record", entry.writer, at.seq + 1, f"what follows seq {at.seq} is seq {entry.seq}")
    if entry.seq < at.seq + 1:
        return Fault("changed record", entry.writer, entry.seq, f"it comes again after seq {at.seq}")
    if entry.computed != entry.hash:
        return Fault("changed record", entry.writer, entry.seq, "its hash is not that of its content")
    if entry.prev_hash != at.hash:
        if at.seq == 0:
            return Fault("changed record", entry.writer, entry.seq, "the first record names one before it")
        return Fault("changed record", entry.writer, at.seq, f"seq {entry.seq} names another hash for it")
    return None


# -- rows -------------------------------------------------------------------------------------------------------------


def row_hash(row: Mapping[str, Any]) -> str:
    """Return the hash of a row as stored: column → value, `hash` itself and what is null left out.

    SHA-256 over JSON with sorted names, without blanks, in ASCII; instants as RFC 3339 in UTC with six digits. A column
    that is added later and is null in old rows leaves their hashes as they are.
    """
    values = {name: value for name, value in row.items() if value is not None and name != UNHASHED}
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def chained_row(row: Mapping[str, Any], writer: str, before: Link) -> dict[str, Any]:
    """Return the row as the next of the chain."""
    values = {**row, "writer": writer, "seq": before.seq + 1, "prev_hash": before.hash}
    return {**values, UNHASHED: row_hash(values)}


def entry_of_row(row: Mapping[str, Any]) -> Entry:
    """Return a row that was read, with all its columns."""
    return Entry(str(row["writer"]), row["seq"], str(row["prev_hash"]), str(row[UNHASHED]), row_hash(row))


def _plain(value: object) -> str:
    return rfc3339(value) if isinstance(value, datetime) else repr(value)


# -- lines ------------------------------------------------------------------------------------------------------------


def chained_line(line: bytes, writer: str, before: Link) -> tuple[bytes, Link]:
    """Return the line (a JSON object that is not empty, with its end) as the next of the chain, and its place.

    Its hash covers the line's bytes up to the last member, `hash`, closed by a brace.
    """
    body = b'%b,"writer":"%b","seq":%d,"prev_hash":"%b"' % (
        line.rstrip(b"\n")[:-1], writer.encode(), before.seq + 1, before.hash.encode(),
    )  # fmt: skip
    link = Link(before.seq + 1, hashlib.sha256(body + b"}").hexdigest())
    return b'%b,"hash":"%b"}\n' % (body, link.hash.encode()), link


def entry_of_line(line: bytes) -> tuple[Entry | None, Mapping[str, Any]]:
    """Return a line that was read: its place in a chain, None when it claims none; and its members.

    Raises:
        ValueError: The line is no JSON object.
    """
    members = orjson.loads(line)
    if not isinstance(members, dict):
        raise ValueError
    writer, seq = members.get("writer"), members.get("seq")
    if not isinstance(writer, str) or not isinstance(seq, int) or isinstance(seq, bool):
        return None, members
    end = _END.search(line)
    computed = None if end is None else hashlib.sha256(line[: end.start()] + b"}").hexdigest()
    stored = "" if end is None else end[1].decode()
    return Entry(writer, seq, str(members.get("prev_hash")), stored, computed), members
