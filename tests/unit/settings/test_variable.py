"""The forms that values have: each parser's table of what it takes and what it refuses."""

import contextlib
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.settings import variable
from llm_proxy.settings.variable import ListenAddress

TAKES: list[tuple[variable.Parser, str, Any]] = [
    *[(variable.boolean, word, True) for word in ("1", "t", "TRUE", "yes", "Y", "On")],
    *[(variable.boolean, word, False) for word in ("0", "f", "False", "NO", "n", "off")],
    (variable.integer(0), "0", 0),
    (variable.integer(1, 64), "64", 64),
    (variable.integer(0), "+5", 5),
    (variable.duration(), "30s", 30.0),
    (variable.duration(), "1h30m", 5400.0),
    (variable.duration(), "250ms", 0.25),
    (variable.duration(), "7d", 604800.0),
    (variable.duration(), "1.5h", 5400.0),
    (variable.duration(), "90", 90.0),
    (variable.duration("1s", zero=True), "0", 0.0),
    (variable.duration("1s", "1h"), "1h", 3600.0),
    (variable.size(), "0", 0),
    (variable.size(), "10MB", 10 * 1024**2),
    (variable.size(), "512kb", 512 * 1024),
    (variable.size(), "1 GB", 1024**3),
    (variable.choice("a", "b"), "A", "a"),
    (variable.choice("mysql", aliases={"mariadb": "mysql"}), "MariaDB", "mysql"),
    (variable.words, "a, b,,c ", ("a", "b", "c")),
    (variable.networks, "10.0.0.0/8, ::1", (ip_network("10.0.0.0/8"), ip_network("::1"))),
    (variable.address, ":8080", ListenAddress(port=8080)),
    (variable.address, "127.0.0.1:1", ListenAddress("127.0.0.1", 1)),
    (variable.address, "[::1]:80", ListenAddress("::1", 80)),
    (variable.address, "unix:/run/a.sock", ListenAddress(path="/run/a.sock")),
    (variable.url("https"), "https://a.example/v1/", "https://a.example/v1"),
    (variable.key_bytes, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", bytes(32)),
    (variable.path_prefix, "/metrics/", "/metrics"),
]
REFUSES: list[tuple[variable.Parser, str]] = [
    (variable.boolean, "maybe"),
    (variable.integer(1), "0"),
    (variable.integer(0, 9), "10"),
    (variable.integer(0), "1e3"),
    (variable.integer(0), "٣"),
    (variable.duration(), "1x"),
    (variable.duration(), "-1s"),
    (variable.duration(), "1h30"),
    (variable.duration("1s", "1h"), "2h"),
    (variable.duration("1s"), "0"),
    (variable.size(), "10TB"),
    (variable.size(), "-1"),
    (variable.size("64KB"), "1KB"),
    (variable.choice("a"), "b"),
    (variable.networks, "10.0.0.0/33"),
    (variable.address, "8080"),
    (variable.address, ":70000"),
    (variable.address, "tcp://10.0.0.1:8080"),
    (variable.address, "a b:1"),
    (variable.url("https"), "http://a"),
    (variable.url("http"), "http://"),
    (variable.url("http"), "http://a/#b"),
    (variable.url("http"), "http://a b"),
    (variable.url("http"), "http://a:99999"),
    (variable.key_bytes, "c2hvcnQ="),
    (variable.key_bytes, "not base64"),
    (variable.path_prefix, "metrics"),
    (variable.path_prefix, "/a//b"),
]


@pytest.mark.parametrize(("parse", "text", "value"), TAKES)
def test_parser_takes(parse: variable.Parser, text: str, value: Any) -> None:
    """Each written form has its value."""
    assert parse(text) == value


@pytest.mark.parametrize(("parse", "text"), REFUSES)
def test_parser_refuses(parse: variable.Parser, text: str) -> None:
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
    assert variable.file_path(missing) == tmp_path / "missing"
    for parse in (variable.existing_file, variable.folder):
        with pytest.raises(ValueError, match="existing"):
            parse(missing)
    assert variable.folder(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("address", [":8080", "127.0.0.1:1", "[::1]:80", "unix:/run/a.sock"])
def test_address_is_written_as_it_was_read(address: str) -> None:
    """What `config show` prints can be set again."""
    assert str(variable.address(address)) == address
