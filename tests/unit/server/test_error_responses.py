"""Refusals as bytes."""

from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.http import errors as theirs

from llm_proxy import errors as ours
from llm_proxy.server import error_responses


@pytest.mark.parametrize(
    ("exc", "status", "code"),
    [
        (theirs.LimitRequestLine(9000, 8190), 414, "uri_too_long"),
        (theirs.LimitRequestHeaders("x"), 431, "header_fields_too_large"),
        (theirs.InvalidHeader("x"), 400, "malformed_request"),
        (theirs.ExpectationFailed("x"), 400, "malformed_request"),
        (theirs.UnsupportedTransferCoding("x"), 400, "malformed_request"),
        (ours.RequestTimeout(), 408, "request_timeout"),
        (ours.MalformedRequest(), 400, "malformed_request"),
        (ValueError("x"), 500, "internal_error"),
    ],
    ids=lambda value: getattr(type(value), "__name__", None) if isinstance(value, Exception) else None,
)
def test_what_went_wrong_becomes_one_of_our_errors(exc: Any, status: Any, code: Any) -> None:
    """Anything unknown is a failure of the proxy."""
    error = error_responses.as_error(exc)
    assert (error.status, error.code) == (status, code)


def test_every_refusal_can_be_rendered() -> None:
    """Status line, fields, object, newline."""
    data = error_responses.render(ours.Draining(), "id-1")
    head, _, body = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert head.count(b"Connection: close") == 1
    assert f"Content-Length: {len(body)}".encode() in head
    assert body.endswith(b'"code":"draining"}\n')


@pytest.mark.parametrize(("value", "is_kept"), [("a.B_1:-", True), ("", False), ("a b", False), ("a" * 129, False)])
def test_a_good_request_id_is_kept(value: Any, is_kept: Any) -> None:
    """1 to 128 safe characters are kept."""
    found = error_responses.request_id_of(SimpleNamespace(headers=[("X-REQUEST-ID", value)]))
    assert (found == value) is is_kept
