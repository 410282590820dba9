"""Counting where no usage was reported: by tiktoken's own files, else by characters, and never by a download."""

import hashlib
import socket
from base64 import b64encode
from pathlib import Path
from typing import Any, NoReturn

import pytest
import tiktoken
from tiktoken import load, registry

from llm_proxy.formats.tokens import Estimator

URL = "https://far.example/encodings/o200k_base.tiktoken"


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder as TIKTOKEN_CACHE_DIR; the real library, whose encoding knows bytes and the word `hello`."""

    def refused(*about: Any) -> NoReturn:
        raise AssertionError(f"a socket was opened: {about}")

    def encoding() -> dict[str, Any]:
        ranks = load.load_tiktoken_bpe(URL)
        return {"name": "o200k_base", "pat_str": r"\w+|\W", "mergeable_ranks": ranks, "special_tokens": {}}

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(load, "read_file", load.read_file)  # the estimator's replaces it
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    monkeypatch.setattr(registry, "ENCODINGS", {})
    monkeypatch.setattr(registry, "ENCODING_CONSTRUCTORS", {"o200k_base": encoding, "cl100k_base": encoding})
    return tmp_path


def provide(folder: Path) -> None:
    """Put the file where the library looks for it."""
    pieces = [bytes([byte]) for byte in range(256)] + [b"he", b"ll", b"hell", b"hello"]
    lines = [b64encode(piece) + b" %d" % rank for rank, piece in enumerate(pieces)]
    (folder / hashlib.sha1(URL.encode()).hexdigest()).write_bytes(b"\n".join(lines))


def test_files_that_are_there_are_counted_with(files: Path) -> None:
    """Tokens of all texts together, special tokens taken as text; beyond the bound, and of nothing, no tokenizer."""
    provide(files)
    estimator = Estimator(files)
    assert estimator.count(["hel", "lo"], "gpt-4o") == 1
    assert estimator.count(["hello hello"], "gpt-4o-2024-08-06") == 3
    assert estimator.count(["<|endoftext|>"], "gpt-4o") == 13
    assert estimator.count([], "gpt-4o") == 0
    assert estimator.count(["a" * 200_001], "gpt-4o") == 50_001
    assert tiktoken.get_encoding("o200k_base").n_vocab == 260


def test_without_the_file_characters_are_counted_and_nothing_is_fetched(
    files: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A quarter of the characters, rounded up; said once in the log, and no socket is opened."""
    estimator = Estimator(files)
    assert [estimator.count([text], "gpt-4o") for text in ("hello", "hell", "hello there")] == [2, 1, 3]
    assert [record.message for record in caplog.records] == [
        "tokens are estimated by characters: no encoding o200k_base in TIKTOKEN_CACHE_DIR (nothing is downloaded)"
    ]
    assert list(files.iterdir()) == []


def test_a_damaged_file_is_no_reason_to_fetch_another(files: Path) -> None:
    """Characters again."""
    (files / hashlib.sha1(URL.encode()).hexdigest()).write_bytes(b"\x00 not an encoding")
    assert Estimator(files).count(["hello"], "gpt-4o") == 2


def test_without_a_folder_no_tokenizer_is_asked(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TIKTOKEN_CACHE_DIR unset: by characters, even if some other folder of the machine has the file."""
    provide(files)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(files))
    assert Estimator(None).count(["hello"], "gpt-4o") == 2


def test_encodings_are_ready_before_they_are_needed(files: Path) -> None:
    """Reading a file takes a second: `load` does it, before any request is served."""
    provide(files)
    estimator = Estimator(files)
    estimator.load()
    for path in files.iterdir():
        path.unlink()
    assert estimator.count(["hello"], "gpt-4o") == estimator.count(["hello"], "gpt-4") == 1


def test_a_folder_without_the_library_is_told(
    files: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A configured folder promises exact counts: the log says what is missing for that."""
    monkeypatch.setattr("llm_proxy.formats.tokens.find_spec", lambda name: None)
    Estimator(files).load()
    assert "TIKTOKEN_CACHE_DIR needs the extra llm-proxy[tiktoken]" in caplog.text
