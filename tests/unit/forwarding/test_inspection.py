"""Step 13: which bodies are looked at, and what becomes of them."""

import io
from collections.abc import Callable

import pytest

from llm_proxy.errors import (
    EndpointNotBudgeted,
    InvalidJson,
    InvalidRequest,
    LlmProxyError,
    Overloaded,
    ParamNotAllowed,
    RequestTooLarge,
    StreamingDisabled,
)
from llm_proxy.formats.request_body import Kind, kind_of
from llm_proxy.forwarding.body import HeldBody, StreamedBody
from llm_proxy.forwarding.inspection import Body, Incoming, Inspector
from llm_proxy.providers import ParameterRules

RULES = ParameterRules({"model": ["gpt-4o"]})
FORM = b'--B7f\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n--B7f--\r\n'
FORM_TYPE = "multipart/form-data; boundary=B7f"


class Client:
    """Sends a body of ten-byte pieces."""

    def __init__(self, body: bytes) -> None:
        self._body = io.BytesIO(body)

    def read1(self, n: int, /) -> bytes:
        return self._body.read1(min(n, 10))


def admit(
    body: bytes,
    content_type: str | None = "application/json",
    *,
    method: str = "POST",
    query: str = "",
    encoding: str | None = None,
    rules: ParameterRules = RULES,
    must_hold: bool = False,
    named: Callable[[str], None] | None = None,
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
    return inspector.admit(incoming, must_hold=must_hold, named=named)


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
        (b"\xef\xbb\xbfmodel=gpt-3", "application/x-www-form-urlencoded", ParamNotAllowed),
        (b' {"model":"gpt-3"}', "application/x-www-form-urlencoded", ParamNotAllowed),
        (b'\xef\xbb\xbf{"model":"gpt-3"}', "application/x-www-form-urlencoded", InvalidJson),
        ('{"model":"gpt-3"}'.encode("utf-16"), "application/x-www-form-urlencoded", InvalidJson),
        ('{"model":"gpt-3"}'.encode("utf-16-be"), "application/x-www-form-urlencoded", InvalidJson),
        ('{"model":"gpt-3"}'.encode("utf-32"), "application/x-www-form-urlencoded", InvalidJson),
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
    assert b"".join(held.pieces()) == body
    held.close()


@pytest.mark.parametrize(
    ("content_type", "method", "rules"),
    [
        (None, "POST", ParameterRules({})),
        ("application/json", "POST", ParameterRules({})),
    ],
    ids=["no type", "no rules"],
)
def test_other_bodies_are_streamed_through(content_type: str | None, method: str, rules: ParameterRules) -> None:
    """Without rules they are not read ahead, and MAX_INSPECTED_BODY is not theirs."""
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


def test_a_body_is_held_whole_where_it_is_needed() -> None:
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
    if not asks:
        assert admit(body, rules=ParameterRules({}), allows_streams=False) is not None
        return
    with pytest.raises(StreamingDisabled):
        admit(body, rules=ParameterRules({}), allows_streams=False)


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
    assert b"".join(held.pieces()) == body


UNPRICED = b'{"model":"x"}'
URLENCODED = "application/x-www-form-urlencoded"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "GET"])
@pytest.mark.parametrize("content_type", [None, "text/plain", "application/octet-stream", "text/json", URLENCODED])
def test_a_type_that_says_nothing_hides_no_parameter(content_type: str | None, method: str) -> None:
    """What begins like a JSON object is read as one."""
    with pytest.raises(ParamNotAllowed):
        admit(b' \n{"model":"gpt-4"}', content_type, method=method)


@pytest.mark.parametrize("content_type", [None, "text/plain", "multipart/mixed; boundary=B7f", "multipart/related"])
@pytest.mark.parametrize("body", [b"model=gpt-4", b'["model"]', b"\x00", FORM % (b"model", b"gpt-4")])
@pytest.mark.parametrize("is_money", [False, True], ids=["rules", "money"])
def test_what_cannot_be_read_is_refused(body: bytes, content_type: str | None, is_money: bool) -> None:
    """Where rules or a budget of money need to read it; without a type only a JSON object can be."""
    rules, named = (ParameterRules({}), list[str]().append) if is_money else (RULES, None)
    with pytest.raises(InvalidRequest) as caught:
        admit(body, content_type, rules=rules, named=named)
    assert caught.value.code == "invalid_json"


@pytest.mark.parametrize("content_type", [None, "application/json", URLENCODED, FORM_TYPE])
def test_an_empty_body_passes(content_type: str | None) -> None:
    """It names nothing."""
    held = admit(b"", content_type)
    assert isinstance(held, HeldBody)
    assert held.length == 0


@pytest.mark.parametrize(
    ("body", "content_type", "models"),
    [
        (b'{"model":"ft:x","n":' + b"1" * 5000 + b"}", "application/json", ["ft:x"]),
        (b'{"Model":"a","model":null,"MODEL":["b"]}', "text/plain", ["a", '["b"]']),
        (UNPRICED, URLENCODED, ["x"]),
        (b"a=1;Model[]=y", URLENCODED, ["y"]),
        (FORM % (b" MODEL[0]", b"z"), FORM_TYPE, ["z"]),
        (b"{}", None, []),
    ],
)
def test_every_model_that_may_be_read_is_named(body: bytes, content_type: str | None, models: list[str]) -> None:
    """Budgets of money ask for each one's price."""
    named: list[str] = []
    admit(body, content_type, rules=ParameterRules({}), named=named.append, max_inspected_bytes=10_000)
    assert named == models


@pytest.mark.parametrize(
    "body", [UNPRICED + b" {}", b'{"model":"x",}', b'{"model":"x","a":"\x01"}', b'{"model":"\xe9"}']
)
@pytest.mark.parametrize("content_type", ["application/json", URLENCODED])
def test_a_budget_is_not_passed_by_what_is_no_json(body: bytes, content_type: str) -> None:
    """Go's decoder, for one, takes it."""
    with pytest.raises(InvalidJson):
        admit(body, content_type, rules=ParameterRules({}), named=list[str]().append)


@pytest.mark.parametrize("content_type", ["application/json", URLENCODED, FORM_TYPE])
@pytest.mark.parametrize("encoding", ["gzip", "identity,gzip", "identity, , br"])
def test_no_content_coding_passes(content_type: str, encoding: str) -> None:
    """Every line of the field counts."""
    with pytest.raises(InvalidRequest) as caught:
        admit(b"{}", content_type, encoding=encoding)
    assert caught.value.param == "Content-Encoding"


@pytest.mark.parametrize("charset", ["=utf-7", '="UTF-16"', "=latin1", "*=utf-8''utf-7", "*0=utf-7"])
def test_no_other_charset_passes(charset: str) -> None:
    """A provider would read other text."""
    with pytest.raises(InvalidRequest) as caught:
        admit(b"{}", f"application/json; charset{charset}")
    assert caught.value.param == "Content-Type"
    assert admit(b"{}", "application/json; Charset=UTF-8") is not None


def test_urlencoded_forms_are_bounded() -> None:
    """A thousand fields, and a name of 512 bytes."""
    with pytest.raises(InvalidJson):
        admit(b"a&" * 1001, URLENCODED, max_inspected_bytes=10_000)
    with pytest.raises(InvalidRequest):
        admit(b"+" * 600 + b"model=gpt-4", URLENCODED)
    with pytest.raises(RequestTooLarge):
        admit(b"a" * (1 << 20) + b"=1", URLENCODED, max_inspected_bytes=1 << 22)


def test_a_deep_value_is_compared_as_text() -> None:
    """Without recursion."""
    with pytest.raises(ParamNotAllowed) as caught:
        admit(b'{"model":' + b"[" * 700 + b"]" * 700 + b"}", max_inspected_bytes=10_000)
    assert "'" + "[" * 256 + "'" in caught.value.message


@pytest.mark.parametrize(
    "head",
    [
        b'Content-Disposition: form-data; name="model"\r\nContent-Type: text/plain; charset=utf-16',
        b'Content-Disposition: form-data; name="x"\r\nContent-Type: multipart/mixed; boundary=y',
        b'Content-Disposition: form-data; name="_charset_"',
    ],
)
def test_parts_that_change_how_fields_are_read_are_refused(head: bytes) -> None:
    """Other charsets, and forms within forms."""
    with pytest.raises(InvalidRequest) as caught:
        admit(b"--B7f\r\n" + head + b"\r\n\r\ngpt-4o\r\n--B7f--\r\n", FORM_TYPE)
    assert caught.value.code == "invalid_json"


@pytest.mark.parametrize(
    ("body", "is_refused"),
    [
        (b'{"background":true}', True),
        (b'{"Background":1}', True),
        (b'{"prompt":{"id":"pmpt_1"}}', True),
        (b'{"background":false,"prompt":["a"]}', False),
        (b'{"background":null,"prompt":"{"}', False),
    ],
)
def test_what_no_budget_sees_is_refused_where_that_is_asked_for(body: bytes, is_refused: bool) -> None:
    """Responses in the background and stored prompts (BUDGETS_REFUSE_UNSEEN)."""
    inspector = Inspector(ParameterRules({}), max_inspected_bytes=1000)
    incoming = Incoming(
        method="POST", query="", content_type=None, content_encoding=None, source=Client(body), length=None
    )
    if is_refused:
        with pytest.raises(EndpointNotBudgeted):
            inspector.admit(incoming, refuses_unseen=True)
    else:
        assert inspector.admit(incoming, refuses_unseen=True) is not None


@pytest.mark.parametrize("is_cached", [False, True], ids=["rules", "cache"])
def test_a_body_that_never_fits_is_413_and_one_that_may_fit_later_503(is_cached: bool) -> None:
    """Before a byte is read; both name MAX_HELD_BODIES."""
    rules = ParameterRules({}) if is_cached else RULES
    inspector = Inspector(rules, max_inspected_bytes=1 << 30, max_held_bodies_bytes=3 << 20)

    def admit_declared(length: int) -> Body | None:
        source = Client(b'{"model":"gpt-4o"}')
        incoming = Incoming(
            method="POST", query="", content_type=None, content_encoding=None, source=source, length=length
        )
        return inspector.admit(incoming, must_hold=is_cached)

    with pytest.raises(RequestTooLarge) as too_large:
        admit_declared(4 << 20)
    assert too_large.value.description == "MAX_HELD_BODIES is 3145728 bytes"
    held = admit_declared(2 << 20)
    assert isinstance(held, HeldBody)
    with pytest.raises(Overloaded) as overloaded:
        admit_declared(2 << 20)
    assert "MAX_HELD_BODIES" in (overloaded.value.description or "")
    held.close()
    assert admit_declared(2 << 20)


@pytest.mark.parametrize(
    ("inspected", "request_size", "told"),
    [
        (20, 0, "MAX_INSPECTED_BODY is 20 bytes"),
        (1000, 20, "MAX_REQUEST_SIZE is 20 bytes"),
        (20, 30, "MAX_INSPECTED_BODY is 20 bytes"),
    ],
)
def test_a_body_that_is_too_large_is_told_the_limit(inspected: int, request_size: int, told: str) -> None:
    """The one that it exceeds."""
    with pytest.raises(RequestTooLarge) as error:
        admit(
            b'{"model":"gpt-4o","x":"yyyyyyyyyyyyyyyyy"}', max_inspected_bytes=inspected, max_request_bytes=request_size
        )
    assert error.value.description == told
