"""The key ring, hashes of bearers, comparisons."""

import base64
import hashlib
import os

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.crypto import KeyRing, UnopenableValue, digest, equal, is_sealed, key_id, sealed_under

OLD, NEW = b"o" * 32, b"n" * 32


def _v1(key: bytes, plain: str) -> str:
    nonce = os.urandom(12)
    return "enc:v1:" + base64.b64encode(nonce + AESGCM(key).encrypt(nonce, plain.encode(), None)).decode()


@given(st.text(min_size=1, max_size=200), st.text(max_size=40))
def test_what_was_sealed_opens_for_its_row(plain: str, row_id: str) -> None:
    """Sealing and opening give the value back, and the sealed form shows nothing of it."""
    ring = KeyRing(NEW)
    sealed = ring.seal(plain, row_id)
    assert sealed.startswith(f"enc:v2:{key_id(NEW)}:")
    assert ring.open(sealed, row_id) == plain


def test_the_key_id_is_as_the_format_says() -> None:
    """First 8 hex of SHA-256 over the label and the key."""
    assert key_id(NEW) == hashlib.sha256(b"llm-proxy key id" + NEW).hexdigest()[:8]
    assert sealed_under(KeyRing(NEW).seal("x", "r")) == key_id(NEW)


def test_equal_values_are_sealed_differently() -> None:
    """Its own nonce for each value."""
    ring = KeyRing(NEW)
    assert ring.seal("same", "r") != ring.seal("same", "r")


def test_a_value_copied_to_another_row_does_not_open() -> None:
    """The row's id is part of what is authenticated."""
    ring = KeyRing(NEW)
    with pytest.raises(UnopenableValue):
        ring.open(ring.seal("x", "a"), "b")


def test_a_tampered_value_does_not_open() -> None:
    """Each byte of the ciphertext counts."""
    ring = KeyRing(NEW)
    sealed = ring.seal("x" * 20, "r")
    head, _, body = sealed.rpartition(":")
    raw = bytearray(base64.b64decode(body))
    for index in range(len(raw)):
        changed = bytes(raw[:index] + bytes([raw[index] ^ 1]) + raw[index + 1 :])
        with pytest.raises(UnopenableValue):
            ring.open(f"{head}:{base64.b64encode(changed).decode()}", "r")


@pytest.mark.parametrize(
    "stored", ["enc:v2:", "enc:v2:zz:AAAA", "enc:v3:x", "enc:", "enc:v1:", "enc:v1:!!", "enc:v1:AAAA"]
)
def test_malformed_values_do_not_open(stored: str) -> None:
    """Whatever claims to be sealed and is not opens under no key, and passes for no plain value."""
    with pytest.raises(UnopenableValue):
        KeyRing(NEW).open(stored, "r")


def test_previous_keys_still_open_and_never_seal() -> None:
    """After a rotation both open; new values are under the new key alone."""
    sealed = KeyRing(OLD).seal("x", "r")
    rotated = KeyRing(NEW, [OLD])
    assert rotated.open(sealed, "r") == "x"
    assert sealed_under(rotated.seal("x", "r")) == key_id(NEW)
    with pytest.raises(UnopenableValue, match=key_id(OLD)):
        KeyRing(NEW).open(sealed, "r")


def test_the_first_format_is_read_for_ever() -> None:
    """`enc:v1:` opens under any key of the ring, for any row, and no other key."""
    stored = _v1(OLD, "sk-real")
    assert KeyRing(NEW, [OLD]).open(stored, "any") == "sk-real"
    with pytest.raises(UnopenableValue):
        KeyRing(NEW).open(stored, "any")


def test_without_a_key_values_stay_plain() -> None:
    """No key: stored in clear, and what is plain is read as it is, with a key too; the empty string stays empty."""
    assert KeyRing().seal("plain", "r") == "plain"
    assert KeyRing(NEW).open("plain", "r") == "plain"
    assert KeyRing(NEW).seal("", "r") == ""
    assert not is_sealed("plain")


def test_a_bearer_is_kept_as_sha256() -> None:
    """Lower-case hex, as other programs would look it up."""
    assert digest("sk-abc") == hashlib.sha256(b"sk-abc").hexdigest()


@given(st.text(max_size=30), st.text(max_size=30))
def test_equal_is_equality(a: str, b: str) -> None:
    """The constant-time comparison says what `==` says, for any text."""
    assert equal(a, b) is (a == b)
    assert equal(a, a)
