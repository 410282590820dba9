"""Header fields in both directions."""

import timeit

import pytest

from llm_proxy.forwarding import fields as module
from llm_proxy.forwarding.fields import (
    REPLACED_WITH_CORRELATION,
    REPLACED_WITH_ORIGIN,
    RequestFields,
    connection_names,
    response_fields,
)
from llm_proxy.runtime import known_names

SDK = [
    ("HOST", "127.0.0.1:8080"),
    ("ACCEPT-ENCODING", "gzip, deflate"),
    ("CONNECTION", "keep-alive"),
    ("ACCEPT", "application/json"),
    ("CONTENT-TYPE", "application/json"),
    ("USER-AGENT", "OpenAI/Python 1.0"),
    ("X-STAINLESS-LANG", "python"),
    ("OPENAI-ORGANIZATION", "org-1"),
    ("AUTHORIZATION", "Bearer sk-withering"),
    ("CONTENT-LENGTH", "950"),
]
OPENAI = RequestFields(host="api.openai.com")


def sent(fields: list[tuple[str, str]], rules: RequestFields = OPENAI, **options: bool) -> list[tuple[bytes, bytes]]:
    """The provider's fields, the request id left out."""
    made = rules(fields, api_key="sk-real", request_id="id-1", **options)
    assert made.count((b"X-Request-Id", b"id-1")) == 1
    return [field for field in made if field[0] != b"X-Request-Id"]


def test_a_stock_request_keeps_its_order_and_gets_the_key() -> None:
    """Host and Authorization are replaced in their places, framing stays, nothing else is added but the id."""
    assert OPENAI(SDK, api_key="sk-real", request_id="id-1") == [
        (b"Host", b"api.openai.com"),
        (b"Accept-Encoding", b"gzip, deflate"),
        (b"Accept", b"application/json"),
        (b"Content-Type", b"application/json"),
        (b"User-Agent", b"OpenAI/Python 1.0"),
        (b"X-Stainless-Lang", b"python"),
        (b"Openai-Organization", b"org-1"),
        (b"Authorization", b"Bearer sk-real"),
        (b"Content-Length", b"950"),
        (b"X-Request-Id", b"id-1"),
    ]


@pytest.mark.parametrize("name", "!#$&'*+-.^`|~AZ09")
def test_a_name_of_one_character_is_a_name_like_others(name: str) -> None:
    """It frames no body, and is no credential."""
    for _ in range(2):
        assert sent([("HOST", "h"), (name, "1"), ("AUTHORIZATION", "x")], RequestFields(host="h")) == [
            (b"Host", b"h"),
            (name.encode(), b"1"),
            (b"Authorization", b"Bearer sk-real"),
        ]


def test_repeated_fields_stay_lines_of_their_own() -> None:
    """Neither merged nor moved."""
    assert sent([("HOST", "h"), ("X-A", "1"), ("X-B", "2"), ("X-A", "3"), ("AUTHORIZATION", "x")]) == [
        (b"Host", b"api.openai.com"),
        (b"X-A", b"1"),
        (b"X-B", b"2"),
        (b"X-A", b"3"),
        (b"Authorization", b"Bearer sk-real"),
    ]


@pytest.mark.parametrize(
    "name",
    [
        *("Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "TE", "Trailer"),
        *("Upgrade", "HTTP2-Settings", "X-Body-Hash", "X-Proxy", "X-Proxy-ID", "X-UPSTREAM-REQUEST-START", "X-Cache"),
        *("X-Cache-Status", "X-REQUEST-START", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Cookie"),
        *("X-Forwarded-Port", "Forwarded", "X-Real-IP", "CF-Connecting-IP", "CF-IPCountry", "X-Client-IP", "Expect"),
        *("X-Original-Forwarded-For", "True-Client-IP", "X_Forwarded_For", "Content_Type"),
    ],
)
def test_fields_that_stay_between_client_and_proxy(name: str) -> None:
    """Hop-by-hop, the client's address, the proxy's names, cookies, and names with an underscore."""
    made = sent([("HOST", "h"), (name.upper(), "some-value"), ("AUTHORIZATION", "x")])
    assert [field for field in made if field[0] not in (b"Host", b"Authorization")] == []


def test_what_connection_names_is_dropped() -> None:
    """RFC 9110 §7.6.1; options of Connection itself name no field."""
    made = sent([*SDK, ("CONNECTION", "close, X-Hop , x-stainless-lang"), ("X-HOP", "1")])
    assert {name for name, _ in made} & {b"X-Hop", b"X-Stainless-Lang", b"Close"} == set()
    assert connection_names("keep-alive, close,, X-A") == {"X-A"}


def test_connection_cannot_take_credentials_and_framing_away() -> None:
    """A client that names them in Connection gains nothing."""
    made = sent([*SDK, ("CONNECTION", "host, authorization, content-length, x-request-id")])
    assert {b"Host", b"Authorization", b"Content-Length"} <= {name for name, _ in made}


def test_chunked_framing_stays() -> None:
    """Transfer-Encoding is the framing of this message, so it stays in its place."""
    assert (b"Transfer-Encoding", b"chunked") in sent([("HOST", "h"), ("TRANSFER-ENCODING", "chunked")])


def test_expect_is_forwarded_only_with_a_body_that_is_still_with_the_client() -> None:
    """A held body needs no leave to be sent."""
    fields = [("HOST", "h"), ("EXPECT", "100-continue")]
    assert (b"Expect", b"100-continue") in sent(fields, keeps_expect=True)
    assert b"Expect" not in dict(sent(fields))


def test_the_client_s_request_id_stays_in_its_place() -> None:
    """One X-Request-Id, where the client wrote it."""
    made = OPENAI([("X-REQUEST-ID", "bad id"), ("HOST", "h")], api_key="k", request_id="made")
    assert made[0] == (b"X-Request-Id", b"made")
    assert [name for name, _ in made].count(b"X-Request-Id") == 1


def test_a_correlation_id_passes_unchanged() -> None:
    """Only if the client sent it."""
    assert (b"X-Correlation-Id", b"c 1") in sent([("X-CORRELATION-ID", "c 1")])
    assert b"X-Correlation-Id" not in dict(sent(SDK))


def test_a_provider_with_a_field_of_its_own_gets_the_bare_key_there() -> None:
    """The client's Authorization and its own copy of that field go nowhere."""
    anthropic = RequestFields(host="api.anthropic.com", auth_header="x-api-key", credential_prefix="")
    made = sent([("HOST", "h"), ("X-API-KEY", "sk-withering"), ("AUTHORIZATION", "Bearer sk-withering")], anthropic)
    assert made == [(b"Host", b"api.anthropic.com"), (b"x-api-key", b"sk-real")]


def test_a_second_authorization_is_never_forwarded() -> None:
    """Whatever was done about it before, the token leaves by no line."""
    made = sent([("AUTHORIZATION", "a"), ("AUTHORIZATION", "b"), ("HOST", "h")])
    assert [value for name, value in made if name == b"Authorization"] == [b"Bearer sk-real"]


def test_proxy_headers_only_where_they_are_asked_for() -> None:
    """UPSTREAM_PROXY_HEADERS adds two fields at the end."""
    rules = RequestFields(host="h", proxy_version="1.2.3")
    assert sent(SDK, rules)[-2:] == [(b"X-Proxy", b"llm-proxy"), (b"X-Proxy-Version", b"1.2.3")]


def test_names_that_clients_choose_are_not_remembered_without_end() -> None:
    """A flood of names costs no memory."""
    rules = RequestFields(host="h")
    for number in range(known_names.MOST * 2):
        rules([(f"X-FLOOD-{number}", "v")], api_key="k", request_id="i")
        response_fields([(b"x-flood-%d" % number, b"v")])
    assert len(rules._fates) <= known_names.MOST
    assert len(module._response_names) <= known_names.MOST
    assert (b"X-Later", b"v") in rules([("X-LATER", "v")], api_key="k", request_id="i")


def test_bytes_beyond_ascii_pass() -> None:
    """A value is bytes; latin-1 text carries them."""
    assert (b"X-A", b"caf\xc3\xa9") in sent([("X-A", "caf\xc3\xa9")])


def test_a_response_keeps_order_case_and_repetitions() -> None:
    """Every end-to-end field arrives as it was sent; the provider's id moves."""
    found = response_fields(
        [
            (b"date", b"Mon, 01 Jan 2024 00:00:00 GMT"),
            (b"Content-Type", b"application/json"),
            (b"x-RateLimit", b"1"),
            (b"connection", b"keep-alive, X-Hop"),
            (b"X-Hop", b"1"),
            (b"Transfer-Encoding", b"chunked"),
            (b"set-cookie", b"__cf=1"),
            (b"x-request-id", b"req_1"),
            (b"x-RateLimit", b"2"),
            (b"Server", b"cloudflare"),
            (b"Server", b"other"),
            (b"Date", b"again"),
            (b"X-Proxy", b"somebody"),
            (b"x_odd", b"\xe9"),
        ]
    )
    assert found.fields == [
        ("date", "Mon, 01 Jan 2024 00:00:00 GMT"),
        ("Content-Type", "application/json"),
        ("x-RateLimit", "1"),
        ("X-Upstream-Request-ID", "req_1"),
        ("x-RateLimit", "2"),
        ("Server", "cloudflare"),
        ("x_odd", "\xe9"),
    ]
    assert not found.is_event_stream


def test_connection_cannot_take_the_length_of_a_response_away() -> None:
    """Without Content-Length a cut would look like an end."""
    found = response_fields([(b"Connection", b"content-length"), (b"Content-Length", b"3")])
    assert found.fields == [("Content-Length", "3")]


@pytest.mark.parametrize("sent_buffering", [[], [(b"x-accel-buffering", b"yes")], [(b"X-Accel-Buffering", b"no")]])
def test_an_event_stream_says_once_that_it_must_not_be_buffered(sent_buffering: list[tuple[bytes, bytes]]) -> None:
    """X-Accel-Buffering: no, whatever the provider said about it."""
    found = response_fields([(b"content-type", b"Text/Event-Stream; charset=utf-8"), *sent_buffering])
    assert found.is_event_stream
    assert [(n, v) for n, v in found.fields if n.lower() == "x-accel-buffering"] == [("X-Accel-Buffering", "no")]


def test_fields_of_the_same_name_that_we_add_replace_the_provider_s() -> None:
    """Two Access-Control-Allow-Origin and no browser takes the response; without the proxy's the provider's passes."""
    given = [(b"access-control-allow-origin", b"*"), (b"X-Correlation-ID", b"theirs")]
    assert len(response_fields(given).fields) == 2
    assert response_fields(given, (REPLACED_WITH_ORIGIN, REPLACED_WITH_CORRELATION)).fields == []


def test_only_we_say_what_our_cache_did() -> None:
    """The provider may be a proxy of this kind; what its cache did is not what this one did, on or off."""
    given = [(b"X-PROXY-CACHE", b"hit"), (b"x-proxy-cache-key", b"v1:p"), (b"X-CACHE-DEBUG", b"why")]
    assert response_fields([*given, (b"Cache-Status", b"edge; hit")]).fields == [("Cache-Status", "edge; hit")]


@pytest.mark.no_cover
def test_both_directions_cost_microseconds() -> None:
    """Measured 4 and 5 µs; the bound is for slow machines."""
    response = [(b"x-ratelimit-%d" % n, b"100") for n in range(20)]
    assert min(timeit.repeat(lambda: sent(SDK), number=1000, repeat=5)) < 0.1
    assert min(timeit.repeat(lambda: response_fields(response), number=1000, repeat=5)) < 0.1


@pytest.mark.parametrize(
    ("fields", "has_length", "is_framed"),
    [
        ([(b"content-length", b"3")], True, True),
        ([(b"Transfer-Encoding", b"chunked")], False, True),
        ([(b"Date", b"x"), (b"Date", b"y")], False, False),
    ],
    ids=["length", "chunked", "until close"],
)
def test_how_a_response_ends_is_told(fields: list[tuple[bytes, bytes]], has_length: bool, is_framed: bool) -> None:
    """By its framing fields, of which only the length goes on to the client."""
    found = response_fields(fields)
    assert (found.has_length, found.is_framed) == (has_length, is_framed)


@pytest.mark.parametrize("value", ["sk-other", "task"])
def test_values_that_are_no_tokens_pass(value: str) -> None:
    """A provider's own second credential, for one."""
    assert (b"X-Api-Key", value.encode()) in sent([*SDK, ("X-API-KEY", value)])
