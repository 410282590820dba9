"""Step 13: which bodies are looked at, and what becomes of them."""

import pytest

from llm_proxy.errors import (
    InvalidJson,
    InvalidRequest,
    LlmProxyError,
    ParamNotAllowed,
    RequestTooLarge,
    StreamingDisabled,
)
from llm_proxy.forwarding.body import HeldBody, StreamedBody
from llm_proxy.forwarding.inspection import Body, Incoming, Inspector, Kind, asks_for_stream, kind_of
from llm_proxy.providers import ParameterRules

RULES = ParameterRules({"model": ["gpt-4o"]})
FORM = b'--B7f\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n--B7f--\r\n'
FORM_TYPE = "multipart/form-data; boundary=B7f"


class Client:
    """Sends a body of ten-byte pieces."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def read1(self, n: int, /) -> bytes:
        n = min(n, 10)
        piece, self._body = self._body[:n], self._body[n:]
        return piece


def admit(
    body: bytes,
    content_type: str | None = "application/json",
    *,
    method: str = "POST",
    query: str = "",
    encoding: str | None = None,
    rules: ParameterRules = RULES,
    must_hold: bool = False,
    max_inspected_bytes: int = 1000,
    max_request_bytes: int = 0,
    allows_streams: bool = True,
) -> Body | None:
    """One request through an inspector with these rules."""
    inspector = Inspector(
        rules,
        max_request_bytes=max_request_bytes,
        max_inspected_bytes=max_inspected_bytes,
        allows_streams=allows_streams,
    )
    incoming = Incoming(
        method=method,
        query=query,
        content_type=content_type,
        content_encoding=encoding,
        source=Client(body),
        length=None,
    )
    return inspector.admit(incoming, must_hold=must_hold)


@pytest.mark.parametrize(
    ("content_type", "kind"),
    [
        ("application/json", Kind.JSON),
        ("APPLICATION/JSON ; charset=UTF-8", Kind.JSON),
        ("application/vnd.x+json", Kind.JSON),
        ("text/plain, application/json", Kind.JSON),
        ("multipart/form-data; boundary=x", Kind.MULTIPART),
        ("Application/X-WWW-Form-Urlencoded", Kind.URLENCODED),
        ("multipart/mixed", Kind.OTHER),
        ("application/jsonl", Kind.OTHER),
        ("", Kind.OTHER),
        (None, Kind.OTHER),
    ],
)
def test_the_media_type_decides(content_type: str | None, kind: Kind) -> None:
    """Parameters and case do not count."""
    assert kind_of(content_type) is kind


@pytest.mark.parametrize(
    ("body", "content_type", "error"),
    [
        (b'{"model":"gpt-3"}', "application/json; charset=utf-8", ParamNotAllowed),
        (b'{"model":"gpt-3"}', "application/vnd.api+json", ParamNotAllowed),
        (b"not json", "application/json", InvalidJson),
        (b"model=gpt-3", "application/x-www-form-urlencoded", ParamNotAllowed),
        (FORM % (b"model", b"gpt-3"), FORM_TYPE, ParamNotAllowed),
        (FORM % (b"model", b"gpt-4o"), "multipart/form-data", InvalidRequest),
        (b"not a form", FORM_TYPE, InvalidRequest),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_bodies_with_rules_are_checked(body: bytes, content_type: str, error: type[LlmProxyError], method: str) -> None:
    """JSON, urlencoded and multipart, for every method that carries them."""
    with pytest.raises(error):
        admit(body, content_type, method=method)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'{"model":"gpt-4o"}', "application/json"),
        (b"model=gpt-4o&x=1", "application/x-www-form-urlencoded"),
        (FORM % (b"model", b"gpt-4o"), FORM_TYPE),
    ],
)
def test_a_checked_body_is_held_unchanged(body: bytes, content_type: str) -> None:
    """What leaves is what came."""
    held = admit(body, content_type)
    assert isinstance(held, HeldBody)
    assert held.content() == body
    held.close()


@pytest.mark.parametrize(
    ("content_type", "method", "rules"),
    [
        (None, "POST", RULES),
        ("text/plain", "POST", RULES),
        ("application/json", "DELETE", RULES),
        ("application/json", "POST", ParameterRules({})),
    ],
    ids=["no type", "other type", "other method", "no rules"],
)
def test_other_bodies_are_streamed_through(content_type: str | None, method: str, rules: ParameterRules) -> None:
    """Their type is never an error, and they are not read ahead; MAX_INSPECTED_BODY is not theirs."""
    body = admit(b"not json at all", content_type, method=method, rules=rules, max_inspected_bytes=3)
    assert isinstance(body, StreamedBody)
    assert b"".join(iter(lambda: body.read1(99), b"")) == b"not json at all"


def test_the_query_is_checked_for_every_method() -> None:
    """A parameter in the query is a parameter."""
    with pytest.raises(ParamNotAllowed):
        admit(b"", method="GET", query="model=gpt-3")


@pytest.mark.parametrize("content_type", [FORM_TYPE, "application/x-www-form-urlencoded", "application/json"])
def test_a_compressed_body_cannot_hide_a_parameter(content_type: str) -> None:
    """What cannot be read is refused where rules depend on it."""
    with pytest.raises(InvalidRequest):
        admit(b"\x1f\x8b-compressed", content_type, encoding="gzip")


def test_held_bodies_are_bounded_by_max_inspected_body() -> None:
    """And by MAX_REQUEST_SIZE, whichever is smaller; of a form only the checked fields are."""
    for inspected, request in ((20, 0), (1000, 20)):
        with pytest.raises(RequestTooLarge):
            admit(b'{"model":"gpt-4o","x":"yyyy"}', max_inspected_bytes=inspected, max_request_bytes=request)
    with pytest.raises(RequestTooLarge):
        admit(FORM % (b"file", b"x" * 500), FORM_TYPE, max_request_bytes=300)
    held = admit(FORM % (b"file", b"x" * 500), FORM_TYPE, max_inspected_bytes=20)
    assert isinstance(held, HeldBody)
    with pytest.raises(RequestTooLarge):
        admit(FORM % (b"model", b"x" * 500), FORM_TYPE, max_inspected_bytes=20)


def test_whoever_needs_a_body_whole_gets_it() -> None:
    """Without rules and without a look at it."""
    held = admit(b"not json", rules=ParameterRules({}), must_hold=True)
    assert isinstance(held, HeldBody)


@pytest.mark.parametrize(
    ("body", "asks"),
    [
        (b'{"stream":true}', True),
        (b'{"model":"x","stream" : true}', True),
        (b'{"str\\u0065am":true}', True),
        (b'{"stream":true,"stream":false}', True),
        (b'{"stream":false}', False),
        (b'{"stream":null}', False),
        (b'{"messages":[{"stream":true}]}', False),
        (b'{"text":"\\"stream\\":true"}', False),
        (b'["stream"]', False),
        (b'{"stream":true', False),
        (b"{}", False),
    ],
)
def test_a_request_for_a_stream_is_recognised(body: bytes, asks: bool) -> None:
    """A true `stream` at the top of a JSON object."""
    assert asks_for_stream(body) is asks


@pytest.mark.parametrize(
    ("body", "content_type", "query"),
    [
        (b'{"stream":true}', "application/json", ""),
        (FORM % (b"stream", b"true"), FORM_TYPE, ""),
        (b"stream=true", "application/x-www-form-urlencoded", ""),
        (b"", None, "stream=true"),
    ],
)
def test_streams_are_refused_where_they_are_switched_off(body: bytes, content_type: str | None, query: str) -> None:
    """ENABLE_STREAMING=false."""
    with pytest.raises(StreamingDisabled):
        admit(body, content_type, query=query, rules=ParameterRules({}), allows_streams=False)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'{"stream":false}', "application/json"),
        (b"not json", "application/json"),
        (b"not a form", FORM_TYPE),
        (FORM % (b"stream", b"false"), "multipart/form-data"),
    ],
)
def test_what_asks_for_no_stream_passes_without_rules(body: bytes, content_type: str) -> None:
    """Without parameter rules a body that cannot be read is the provider's to judge."""
    held = admit(body, content_type, rules=ParameterRules({}), allows_streams=False)
    assert isinstance(held, HeldBody)
    assert held.content() == body
