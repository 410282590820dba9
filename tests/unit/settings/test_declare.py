"""The forms that values have: each parser's table of what it takes and what it refuses."""

import contextlib
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.settings import declare
from llm_proxy.settings.declare import ListenAddress

TAKES: list[tuple[declare.Parser, str, Any]] = [
    *[(declare.boolean, word, True) for word in ("1", "t", "TRUE", "yes", "Y", "On")],
    *[(declare.boolean, word, False) for word in ("0", "f", "False", "NO", "n", "off")],
    (declare.integer(0), "0", 0),
    (declare.integer(1, 64), "64", 64),
    (declare.integer(0), "+5", 5),
    (declare.duration(), "30s", 30.0),
    (declare.duration(), "1h30m", 5400.0),
    (declare.duration(), "250ms", 0.25),
    (declare.duration(), "7d", 604800.0),
    (declare.duration(), "1.5h", 5400.0),
    (declare.duration(), "90", 90.0),
    (declare.duration("1s", zero=True), "0", 0.0),
    (declare.duration("1s", "1h"), "1h", 3600.0),
    (declare.size(), "0", 0),
    (declare.size(), "10MB", 10 * 1024**2),
    (declare.size(), "512kb", 512 * 1024),
    (declare.size(), "1 GB", 1024**3),
    (declare.choice("a", "b"), "A", "a"),
    (declare.choice("mysql", aliases={"mariadb": "mysql"}), "MariaDB", "mysql"),
    (declare.words, "a, b,,c ", ("a", "b", "c")),
    (declare.networks, "10.0.0.0/8, ::1", (ip_network("10.0.0.0/8"), ip_network("::1"))),
    (declare.address, ":8080", ListenAddress(port=8080)),
    (declare.address, "127.0.0.1:1", ListenAddress("127.0.0.1", 1)),
    (declare.address, "[::1]:80", ListenAddress("::1", 80)),
    (declare.address, "unix:/run/a.sock", ListenAddress(path="/run/a.sock")),
    (declare.url("https"), "https://a.example/v1/", "https://a.example/v1"),
    (declare.key_bytes, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", bytes(32)),
    (declare.path_prefix, "/metrics/", "/metrics"),
]
REFUSES: list[tuple[declare.Parser, str]] = [
    (declare.boolean, "maybe"),
    (declare.integer(1), "0"),
    (declare.integer(0, 9), "10"),
    (declare.integer(0), "1e3"),
    (declare.integer(0), "٣"),
    (declare.duration(), "1x"),
    (declare.duration(), "-1s"),
    (declare.duration(), "1h30"),
    (declare.duration("1s", "1h"), "2h"),
    (declare.duration("1s"), "0"),
    (declare.size(), "10TB"),
    (declare.size(), "-1"),
    (declare.size("64KB"), "1KB"),
    (declare.choice("a"), "b"),
    (declare.networks, "10.0.0.0/33"),
    (declare.address, "8080"),
    (declare.address, ":70000"),
    (declare.address, "tcp://10.0.0.1:8080"),
    (declare.address, "a b:1"),
    (declare.url("https"), "http://a"),
    (declare.url("http"), "http://"),
    (declare.url("http"), "http://a/#b"),
    (declare.url("http"), "http://a b"),
    (declare.url("http"), "http://a:99999"),
    (declare.key_bytes, "c2hvcnQ="),
    (declare.key_bytes, "not base64"),
    (declare.path_prefix, "metrics"),
    (declare.path_prefix, "/a//b"),
]


@pytest.mark.parametrize(("parse", "text", "value"), TAKES)
def test_parser_takes(parse: declare.Parser, text: str, value: Any) -> None:
    """Each written form has its value."""
    assert parse(text) == value


@pytest.mark.parametrize(("parse", "text"), REFUSES)
def test_parser_refuses(parse: declare.Parser, text: str) -> None:
    """What is out of form or bounds is a ValueError that says what is in form."""
    with pytest.raises(ValueError, match=r"\w \w|true or false|one of"):
        parse(text)


@given(st.text(max_size=40))
def test_parsers_end_with_a_value_or_a_value_error(text: str) -> None:
    """Whatever a variable holds, no parser fails in another way."""
    for parse in {parse for parse, _, _ in TAKES}:
        with contextlib.suppress(ValueError):
            parse(text)


def test_paths_are_looked_at_only_where_they_must_be_there(tmp_path: Path) -> None:
    """A file to be written may be missing; a folder or file to be read may not."""
    missing = str(tmp_path / "missing")
    assert declare.file_path(missing) == tmp_path / "missing"
    for parse in (declare.existing_file, declare.folder):
        with pytest.raises(ValueError, match="existing"):
            parse(missing)
    assert declare.folder(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("address", [":8080", "127.0.0.1:1", "[::1]:80", "unix:/run/a.sock"])
def test_address_is_written_as_it_was_read(address: str) -> None:
    """What `config show` prints can be set again."""
    assert str(declare.address(address)) == address
