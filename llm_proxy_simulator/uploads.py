"""A request's body, kept on disk beyond 1 MiB; multipart forms are looked at without loading them."""

import hashlib
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import IO, Any

_IN_MEMORY_BYTES = 1024 * 1024
_JSON_LIMIT_BYTES = 64 * 1024 * 1024
_READ_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a form: where its content lies in the body."""

    name: str
    filename: str | None
    start: int
    size: int
    sha256: str


class Upload:
    """The body, whole or as far as it came."""

    def __init__(self, content_type: str) -> None:
        self._file: IO[bytes] = SpooledTemporaryFile(_IN_MEMORY_BYTES)  # noqa: SIM115  (closed by close)
        self._content_type = content_type
        self._hash = hashlib.sha256()
        self._parts: list[Part] | None = None
        self._is_kept = False
        self.size = 0

    def add(self, piece: bytes) -> None:
        """Append what arrived."""
        self._hash.update(piece)
        self._file.write(piece)
        self.size += len(piece)

    @property
    def sha256(self) -> str:
        """Of all bytes so far, hexadecimal."""
        return self._hash.hexdigest()

    def json(self) -> dict[str, Any] | None:
        """Return the body as a JSON object; None when it is none."""
        if self.size > _JSON_LIMIT_BYTES:
            return None
        self._file.seek(0)
        try:
            value = json.loads(self._file.read())
        except ValueError:
            return None
        return value if isinstance(value, dict) else None

    def part(self, name: str) -> Part | None:
        """Return the form's part of that name."""
        if self._parts is None:
            self._parts = list(self._find_parts())
        return next((part for part in self._parts if part.name == name), None)

    def text(self, name: str) -> str | None:
        """Return a form field's text."""
        part = self.part(name)
        return None if part is None else b"".join(self.content(part)).decode("utf-8", "replace")

    def content(self, part: Part) -> Iterator[bytes]:
        """Yield a part's bytes."""
        place, left = part.start, part.size
        while left > 0:
            self._file.seek(place)
            piece = self._file.read(min(left, _READ_BYTES))
            place, left = place + len(piece), left - len(piece)
            yield piece

    def keep(self) -> "Upload":
        """Let it live beyond its request."""
        self._is_kept = True
        return self

    def close(self) -> None:
        """Free it, unless it is kept."""
        if not self._is_kept:
            self._file.close()

    def _find_parts(self) -> Iterator[Part]:
        found = re.search(r'multipart/form-data;.*boundary="?([^";]+)"?', self._content_type, re.IGNORECASE)
        if found is None:
            return
        places = list(self._find(b"--" + found[1].encode()))
        for place, following in itertools.pairwise(places):
            self._file.seek(place)
            head = self._file.read(min(following - place, _READ_BYTES))
            end = head.find(b"\r\n\r\n")
            about = head[:end].decode("utf-8", "replace")
            name = re.search(r'[; ]name="([^"]*)"', about)
            filename = re.search(r'filename="([^"]*)"', about)
            if end < 0 or name is None:
                continue
            start = place + end + 4
            part = Part(name[1], filename[1] if filename else None, start, following - 2 - start, "")
            digest = hashlib.sha256()
            for piece in self.content(part):
                digest.update(piece)
            yield Part(part.name, part.filename, part.start, part.size, digest.hexdigest())

    def _find(self, boundary: bytes) -> Iterator[int]:
        """Where the boundary stands at the beginning of a line."""
        place, tail = 0, b"\r\n"
        boundary = b"\r\n" + boundary
        self._file.seek(0)
        while piece := self._file.read(_READ_BYTES):
            window = tail + piece
            at = window.find(boundary)
            while at >= 0:
                yield place - len(tail) + at + 2
                at = window.find(boundary, at + 1)
            place += len(piece)
            tail = window[-(len(boundary) - 1) :]
