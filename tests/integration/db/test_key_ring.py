"""Which key rings a start accepts, on each engine."""

import base64
import os

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Engine, text

from llm_proxy.crypto import KeyRing, check_key_ring, key_id
from llm_proxy.db.prepare import prepare
from llm_proxy.settings import StorageSettings

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32


def _store(engine: Engine, *keys: str) -> None:
    with engine.begin() as connection:
        for n, stored in enumerate(keys):
            row = {"id": str(n), "name": str(n), "key": stored}
            connection.execute(text("INSERT INTO projects (id, name, api_key) VALUES (:id, :name, :key)"), row)


def _v1(key: bytes) -> str:
    nonce = os.urandom(12)
    return "enc:v1:" + base64.b64encode(nonce + AESGCM(key).encrypt(nonce, b"sk-real", None)).decode()


def test_the_right_ring_passes(engine: Engine) -> None:
    """Plain rows, rows under the current, a previous and the first format's key: nothing to say."""
    _store(engine, "plain", KeyRing(A).seal("x", "1"), KeyRing(B).seal("x", "2"), _v1(B))
    assert check_key_ring(engine, KeyRing(A, [B])) is None


def test_plain_keys_beside_a_ring_are_told_at_the_start(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """Turning encryption on seals nothing by itself, and says so; without a key another warning stands for it."""
    _store(engine, "plain-1", "plain-2", KeyRing(A).seal("x", "2"))
    prepare(engine, StorageSettings(encryption_key=A))
    assert caplog.messages[-1:] == ["2 provider keys are stored in clear: run llm-proxy migrate encrypt"]


def test_an_unknown_key_stops_the_start(engine: Engine) -> None:
    """One line with the key's id, how many rows, and the variable; nothing is changed."""
    _store(engine, *(KeyRing(A).seal("x", str(n)) for n in range(3)))
    line = check_key_ring(engine, KeyRing(B)) or ""
    assert key_id(A) in line
    assert "3 provider keys" in line
    assert "ENCRYPTION_KEY_PREVIOUS" in line
    assert "\n" not in line


@pytest.mark.parametrize("stored", [KeyRing(A).seal("x", "0"), _v1(A)], ids=["v2", "v1"])
def test_no_key_at_all_stops_the_start(engine: Engine, stored: str) -> None:
    """Sealed rows and no key: the variable is named."""
    _store(engine, stored)
    assert "ENCRYPTION_KEY is not set" in (check_key_ring(engine, KeyRing()) or "")


def test_tampered_rows_do_not_stop_the_start(engine: Engine) -> None:
    """A malformed row and one copied from elsewhere are their own projects' trouble."""
    _store(engine, "enc:v2:nonsense", "enc:v9:x", KeyRing(A).seal("x", "another row"), KeyRing(A).seal("x", "3"))
    assert check_key_ring(engine, KeyRing(A)) is None


def test_the_first_format_under_a_wrong_key_stops_the_start(engine: Engine) -> None:
    """None of its rows opens, and nothing else shows that the ring is right."""
    _store(engine, _v1(A), _v1(A))
    assert "enc:v1" in (check_key_ring(engine, KeyRing(B)) or "")
    assert check_key_ring(engine, KeyRing(B, [A])) is None


def test_one_broken_row_of_the_first_format_is_tampered(engine: Engine) -> None:
    """Others that open show that the ring is right."""
    _store(engine, _v1(A), "enc:v1:" + base64.b64encode(b"x" * 40).decode())
    assert check_key_ring(engine, KeyRing(A)) is None
