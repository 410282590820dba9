"""The header section as bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from requests.exceptions import InvalidHeader

from llm_proxy.transport import UpstreamRequest
from llm_proxy.transport.head import Head

ORIGIN = "https://api.test:443"


def test_head_is_what_was_given() -> None:
    """Request line, fields, empty line; nothing else."""
    forward = UpstreamRequest("GET", b"/a?b", [(b"Host", b"api.test"), (b"A", b"1"), (b"a", b"")], ORIGIN)
    assert forward.head() == b"GET /a?b HTTP/1.1\r\nHost: api.test\r\nA: 1\r\na: \r\n\r\n"
    assert forward.url == "https://api.test:443/a?b"


def test_absolute_form_and_extra_lines() -> None:
    """For an HTTP proxy: prefix before the target, whole lines behind the fields."""
    forward = UpstreamRequest("GET", b"/a", [(b"A", b"1")], ORIGIN)
    assert forward.head(b"http://h:1", b"X: y\r\n") == b"GET http://h:1/a HTTP/1.1\r\nA: 1\r\nX: y\r\n\r\n"


@given(st.lists(st.tuples(st.binary(max_size=8), st.binary(max_size=12)), max_size=6))
def test_no_list_of_fields_smuggles_a_line(fields: list[tuple[bytes, bytes]]) -> None:
    """Whatever is written has exactly the lines that were given; everything else is refused."""
    try:
        head = UpstreamRequest("GET", b"/", fields, ORIGIN).head()
    except InvalidHeader:
        return
    lines = head.split(b"\r\n")
    assert lines[1:-2] == [name + b": " + value for name, value in fields]
    assert lines[-2:] == [b"", b""]
    assert b"\r" not in b"".join(lines)
    assert b"\n" not in b"".join(lines)


def test_names_that_clients_choose_are_not_kept_for_ever() -> None:
    """What is remembered about names is bounded."""
    from llm_proxy.transport import request as module

    for number in range(2 * module._KNOWN_NAMES + 10):
        UpstreamRequest("GET", b"/", [(b"x-%d" % number, b"")], ORIGIN).head()
    assert len(module._kinds) <= module._KNOWN_NAMES


@pytest.mark.parametrize("value", [b"gzip", b"chunked, gzip", b"identity", b""])
def test_other_codings_are_refused(value: bytes) -> None:
    """Only chunked is written here."""
    with pytest.raises(InvalidHeader):
        UpstreamRequest("POST", b"/", [(b"Transfer-Encoding", value)], ORIGIN, b"x").head()


@given(st.binary(max_size=60))
def test_bytes_have_one_framing(body: bytes) -> None:
    """A body of bytes goes as it is, or as one chunk and the last one."""
    counted = UpstreamRequest("POST", b"/", [(b"Content-Length", b"%d" % len(body))], ORIGIN, body)
    counted.head()
    assert counted.framed() == body
    chunked = UpstreamRequest("POST", b"/", [(b"transfer-encoding", b"Chunked")], ORIGIN, body)
    chunked.head()
    assert chunked.framed() == (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"


@given(st.binary(max_size=40))
def test_any_status_line_is_taken_or_refused(junk: bytes) -> None:
    """No bytes make the head's parser raise anything but its own error."""
    from llm_proxy.transport.errors import Broken

    for data in (
        junk + b"\r\n\r\n",
        b"HTTP/1.1 200 " + junk + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + junk + b"\r\n\r\n",
    ):
        try:
            Head().parse(data, "GET")
        except Broken:
            continue
