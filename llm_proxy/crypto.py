"""Provider keys at rest, hashes of bearers, comparisons that take the same time whatever they find.

A sealed value is `enc:v2:<key id>:` and base64 of nonce, ciphertext and tag (AES-256-GCM); the row's id is its
associated data. `enc:v1:` values, which name no key and are tied to no row, are read permanently and never written.
"""

import base64
import binascii
import hashlib
import hmac
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from llm_proxy.settings import StorageSettings

if TYPE_CHECKING:
    from sqlalchemy import Engine

SEALED = "enc:"
_V1, _V2 = "enc:v1:", "enc:v2:"
_V2_FORM = re.compile(r"enc:v2:([0-9a-f]{8}):([A-Za-z0-9+/]+={0,2})")
_NONCE_BYTES, _TAG_BYTES = 12, 16
_SEALED_KEYS = (
    "SELECT id, api_key FROM projects WHERE api_key LIKE 'enc:%'",
    "SELECT id, api_key FROM project_keys WHERE api_key LIKE 'enc:%'",
)


class UnopenableValue(Exception):
    """A stored value that no key of the ring opens: tampered with, copied from another row, or under another key."""


def digest(bearer: str) -> str:
    """Lower-case hex SHA-256: the form in which tokens are stored and looked up."""
    return hashlib.sha256(bearer.encode("utf-8", "surrogateescape")).hexdigest()


def equal(presented: str, expected: str) -> bool:
    """Compare secrets in a time that tells nothing of either, their lengths included."""
    return hmac.compare_digest(
        hashlib.sha256(presented.encode("utf-8", "surrogateescape")).digest(),
        hashlib.sha256(expected.encode("utf-8", "surrogateescape")).digest(),
    )


def key_id(key: bytes) -> str:
    """How a sealed value names its key."""
    return hashlib.sha256(b"llm-proxy key id" + key).hexdigest()[:8]


def is_sealed(stored: str) -> bool:
    """Whether a stored value is, or claims to be, ciphertext."""
    return stored.startswith(SEALED)


class KeyRing:
    """The key that seals and the keys that still open.

    Args:
        current: 32 bytes; None = values are stored in clear.
        previous: Keys that open only.
    """

    def __init__(self, current: bytes | None = None, previous: Sequence[bytes] = ()) -> None:
        keys = ([current] if current is not None else []) + list(previous)
        self._ciphers = {key_id(key): AESGCM(key) for key in keys}
        self.current_id = key_id(current) if current is not None else None

    @classmethod
    def from_settings(cls, settings: StorageSettings) -> "KeyRing":
        """Return the ring of ENCRYPTION_KEY and ENCRYPTION_KEY_PREVIOUS."""
        return cls(settings.encryption_key, settings.encryption_key_previous)

    @property
    def is_empty(self) -> bool:
        """Whether nothing sealed can be opened."""
        return not self._ciphers

    def __contains__(self, identity: object) -> bool:
        return identity in self._ciphers

    def seal(self, plain: str, row_id: str) -> str:
        """Return the value to store for the row: `plain` itself without a current key, and for the empty string."""
        if self.current_id is None or not plain:
            return plain
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._ciphers[self.current_id].encrypt(nonce, plain.encode(), row_id.encode())
        return f"{_V2}{self.current_id}:{base64.b64encode(nonce + sealed).decode()}"

    def open(self, stored: str, row_id: str) -> str:
        """Return what was sealed; a value that is not sealed comes back as it is.

        Raises:
            UnopenableValue: Its message tells the kind of trouble, never a part of the value.
        """
        if not is_sealed(stored):
            return stored
        found = _V2_FORM.fullmatch(stored)
        if found is not None:
            cipher = self._ciphers.get(found[1])
            if cipher is None:
                raise UnopenableValue(f"sealed under key {found[1]}, which is not in the ring")
            return _decrypt(cipher, found[2], row_id.encode())
        if stored.startswith(_V1):
            for cipher in self._ciphers.values():
                try:
                    return _decrypt(cipher, stored[len(_V1) :], None)
                except UnopenableValue:
                    continue
            raise UnopenableValue("no key of the ring opens it")
        raise UnopenableValue("its form is unknown")

    def opens(self, stored: str, row_id: str) -> bool:
        """Return whether `open` would return the value."""
        try:
            self.open(stored, row_id)
        except UnopenableValue:
            return False
        return True


def sealed_under(stored: str) -> str | None:
    """Return the key id that a well-formed `enc:v2:` value names; None for anything else."""
    found = _V2_FORM.fullmatch(stored)
    return found[1] if found is not None else None


def _decrypt(cipher: AESGCM, encoded: str, bound_to: bytes | None) -> str:
    try:
        raw = base64.b64decode(encoded, validate=True)
        if len(raw) < _NONCE_BYTES + _TAG_BYTES:
            raise UnopenableValue("too short")
        return cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], bound_to).decode()
    except (binascii.Error, ValueError, InvalidTag) as error:
        raise UnopenableValue("it does not open") from error


def check_key_ring(engine: "Engine", ring: KeyRing) -> str | None:
    """One line when the start must stop, because rows are sealed under keys that the ring lacks; else None.

    Reads every sealed provider key and changes nothing. A row that is malformed, or does not open under the key that
    it names, is a tampered row and no reason to stop: its own project answers 503. Values of
    the first format name no key: they stop the start when the ring is empty, or when none of them opens and no other
    row shows that the ring is right.
    """
    from sqlalchemy import text  # here: commands without a database read this module, too

    unknown: dict[str, int] = {}
    is_proven, old_rows, old_opened = False, 0, 0
    with engine.connect().execution_options(llm_proxy_reads=True) as connection:
        rows = [row for query in _SEALED_KEYS for row in connection.execute(text(query)).all()]
    for row_id, stored in rows:
        named = sealed_under(stored)
        if named is not None:
            if named in ring:
                is_proven = True
            else:
                unknown[named] = unknown.get(named, 0) + 1
        elif stored.startswith(_V1):
            old_rows += 1
            old_opened += ring.opens(stored, row_id)
    if unknown:
        named, count = max(unknown.items(), key=lambda item: item[1])
        return _stop_line(f"under key {named}", count, ring)
    if old_rows and (ring.is_empty or (not old_opened and not is_proven)):
        return _stop_line("in the format enc:v1", old_rows, ring)
    return None


def _stop_line(what: str, count: int, ring: KeyRing) -> str:
    rows = "1 provider key is" if count == 1 else f"{count} provider keys are"
    if ring.is_empty:
        return f"{rows} sealed {what}, but ENCRYPTION_KEY is not set: set it to the key that sealed them"
    return (
        f"{rows} sealed {what}, which is not in the key ring: "
        "set ENCRYPTION_KEY to that key, or add it to ENCRYPTION_KEY_PREVIOUS"
    )
