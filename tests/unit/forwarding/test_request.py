"""Ids, addresses and what is read out of an environment."""

import io
import ipaddress
import os
import re

import pytest

from llm_proxy.forwarding.request import ProxyRequest, accepted_id, client_address, from_environ, uuid7

TRUSTED = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))


@pytest.mark.parametrize("value", ["a", "A-Z.0:9_", "x" * 128])
def test_usable_ids_are_taken(value: str) -> None:
    """DP-40."""
    assert accepted_id(value) == value


@pytest.mark.parametrize("value", [None, "", " ", "a b", "x" * 129, "ä", "a\n", "a/b"])
def test_unusable_ids_count_as_absent(value: str | None) -> None:
    """Blank ones too (DP-42)."""
    assert accepted_id(value) is None


def test_made_ids_are_uuids_of_version_7_and_sort_by_time() -> None:
    """RFC 9562 §5.7."""
    made = [uuid7(1700000000.0 + step) for step in range(50)]
    assert made == sorted(made)
    assert len(set(made)) == 50
    for one in made:
        assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", one)
    assert made[0].replace("-", "")[:12] == f"{1700000000000:012x}"


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("203.0.113.9", ["1.1.1.1"], "203.0.113.9"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["6.6.6.6, 203.0.113.7"], "203.0.113.7"),
        ("10.0.0.1", ["203.0.113.7, 10.9.9.9"], "203.0.113.7"),
        ("10.0.0.1", ["6.6.6.6", "203.0.113.7", "10.9.9.9"], "203.0.113.7"),
        ("10.0.0.1", ["10.8.8.8, 10.9.9.9"], "10.8.8.8"),
        ("10.0.0.1", ["6.6.6.6, junk, 10.9.9.9"], "10.9.9.9"),
        ("10.0.0.1", ["203.0.113.7:4711"], "203.0.113.7"),
        ("10.0.0.1", ["[2001:db8::1]:4711"], "2001:db8::1"),
        ("::ffff:10.0.0.1", ["203.0.113.7"], "203.0.113.7"),
        ("fd00::1", ["2001:db8::2"], "2001:db8::2"),
        ("", ["203.0.113.7"], "203.0.113.7"),
        (None, [], None),
    ],
)
def test_the_client_is_the_last_that_nobody_trusts(peer: str | None, forwarded: list[str], address: str | None) -> None:
    """DP-88."""
    assert client_address(peer, forwarded, TRUSTED) == address


def test_without_trusted_proxies_the_peer_counts() -> None:
    """Whatever the field says."""
    assert client_address("10.0.0.1", ["203.0.113.7"], ()) == "10.0.0.1"


def test_the_servers_fields_win_over_joined_ones() -> None:
    """Order and repetition as the server layer gives them."""
    fields = [("HOST", "a"), ("X-A", "1"), ("X-A", "2"), ("CONTENT-LENGTH", "3")]
    environ = {
        "REQUEST_METHOD": "POST",
        "RAW_URI": "/v1/%2f?x=1?y",
        "llm_proxy.fields": fields,
        "wsgi.input": io.BytesIO(b"abc"),
        "REMOTE_ADDR": "1.2.3.4",
        "HTTP_X_A": "1,2",
    }
    request = from_environ(environ)
    assert (request.fields, request.values["X-A"], request.all("X-A")) == (fields, "1", ["1", "2"])
    assert (request.target, request.path, request.query) == ("/v1/%2f?x=1?y", "/v1/%2f", "x=1?y")
    assert (request.content_length, request.is_chunked, request.client_addr) == (3, False, "1.2.3.4")


def test_plain_wsgi_is_enough() -> None:
    """Another server's environment: joined fields, a rebuilt target, a body that ends at its length."""
    environ = {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/v1/a b",
        "QUERY_STRING": "x=%31",
        "CONTENT_LENGTH": "3",
        "CONTENT_TYPE": "text/plain",
        "HTTP_X_REQUEST_ID": "mine",
        "wsgi.input": io.BytesIO(b"abcdef"),
    }
    request = from_environ(environ)
    assert (request.target, request.request_id) == ("/v1/a%20b?x=%31", "mine")
    assert request.values["CONTENT-TYPE"] == "text/plain"
    assert request.body is not None
    assert (request.body.read1(100), request.body.read1(100)) == (b"abc", b"")


@pytest.mark.parametrize(
    ("fields", "has_body"),
    [
        ([], False),
        ([("CONTENT-LENGTH", "0")], False),
        ([("CONTENT-LENGTH", "1")], True),
        ([("TRANSFER-ENCODING", "chunked")], True),
    ],
)
def test_a_body_is_there_when_it_is_framed(fields: list[tuple[str, str]], has_body: bool) -> None:
    """RFC 9112 §6.3."""
    request = ProxyRequest("POST", "/", fields, body=io.BytesIO(b""))
    assert (request.body is not None) == has_body


def test_forked_processes_make_ids_of_their_own() -> None:
    """Random digits that were fetched before a fork are used by the parent alone."""
    uuid7()
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        os.write(write, " ".join(uuid7(0.0) for _ in range(20)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = set(os.read(read, 4096).decode().split())
    os.close(read)
    os.close(write)
    assert len(theirs) == 20
    assert theirs.isdisjoint(uuid7(0.0) for _ in range(20))


def test_under_another_server_a_body_ends_where_its_length_says() -> None:
    """Its input may lack `read1` and go on with the next request."""

    class Endless:
        def read(self, n: int) -> bytes:
            return b"x" * n

    environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/v1/files", "CONTENT_LENGTH": "5", "wsgi.input": Endless()}
    body = from_environ(environ).body
    assert body is not None
    assert [body.read1(3), body.read1(9), body.read1(9)] == [b"xxx", b"xx", b""]
