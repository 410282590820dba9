"""Ids, addresses and what is read out of an environment."""

import io
import ipaddress

import pytest

from llm_proxy.forwarding.request import ProxyRequest, client_address, from_environ

TRUSTED = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))


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
        ("10.0.0.1", ["::ffff:203.0.113.13"], "203.0.113.13"),
        ("10.0.0.1", ["[::ffff:203.0.113.13]:4711"], "203.0.113.13"),
        ("10.0.0.1", ["fe80::1%3"], "fe80::1"),
        ("fd00::1", ["2001:db8::2"], "2001:db8::2"),
        ("", ["203.0.113.7"], "203.0.113.7"),
        (None, [], None),
    ],
)
def test_the_client_is_the_last_untrusted_one(peer: str | None, forwarded: list[str], address: str | None) -> None:
    """Zone, port and brackets are no part of an address."""
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


def test_under_another_server_a_body_ends_where_its_length_says() -> None:
    """Its input may lack `read1` and go on with the next request."""

    class Endless:
        def read(self, n: int) -> bytes:
            return b"x" * n

    environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/v1/files", "CONTENT_LENGTH": "5", "wsgi.input": Endless()}
    body = from_environ(environ).body
    assert body is not None
    assert [body.read1(3), body.read1(9), body.read1(9)] == [b"xxx", b"xx", b""]


def test_a_chain_of_trusted_proxies_is_followed_so_far_and_no_farther() -> None:
    """A field of 64 KB of trusted addresses costs no more than a short one."""
    trusted = [ipaddress.ip_network("10.0.0.0/8")]
    assert client_address("10.0.0.1", [", ".join(["203.0.113.9", *["10.0.0.2"] * 63])], trusted) == "203.0.113.9"
    assert client_address("10.0.0.1", [", ".join(["203.0.113.9", *["10.0.0.2"] * 64])], trusted) == "10.0.0.2"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [((), None), (("gzip",), "gzip"), (("zstd", "gzip"), "zstd, gzip")],
    ids=["none", "one", "two"],
)
def test_every_line_of_content_encoding_counts(lines: tuple[str, ...], expected: str | None) -> None:
    """Several lines of a field are one list (RFC 9110 §5.3)."""
    fields = [("CONTENT-ENCODING", line) for line in lines]
    assert ProxyRequest("POST", "/v1/x", fields).content_encoding == expected
