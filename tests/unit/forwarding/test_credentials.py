"""forwarding.credentials: copies of the token are removed, another token is refused, in whichever field it stands."""

import base64
from dataclasses import replace
from urllib.parse import quote

import pytest

from llm_proxy.errors import AmbiguousCredentials, TokenInQuery
from llm_proxy.forwarding.credentials import Credentials
from llm_proxy.forwarding.request import ProxyRequest
from llm_proxy.providers import load_provider
from llm_proxy.settings import load

BEARER, OTHER = "sk-AbCdEfGhIjKlMnOpQrStUv", "sk-" + "b" * 22
PROVIDER = load_provider(load({}).settings).provider
CARRIERS = [
    ("API-KEY", "{}"),
    ("X-API-KEY", "{}"),
    ("X-GOOG-API-KEY", "{}"),
    ("X-ANYTHING", "Bearer {}"),
    ("X-JSON", '{{"key":"{}"}}'),
    ("PROXY-AUTHORIZATION", "Bearer {}"),
]


def checked(fields: list[tuple[str, str]], names: tuple[str, ...] = ("AUTHORIZATION",)) -> ProxyRequest:
    """Return a request whose other fields were checked."""
    request = ProxyRequest("GET", "/v1/models", [("AUTHORIZATION", f"Bearer {BEARER}"), *fields, ("ACCEPT", "*/*")])
    assert Credentials(replace(PROVIDER, client_auth=names)).bearer(request) == BEARER
    return request


@pytest.mark.parametrize(("name", "form"), CARRIERS)
def test_a_copy_of_the_token_is_removed(name: str, form: str) -> None:
    """Editors put the same key into several fields; whichever holds it is dropped, and the others stay in order."""
    assert checked([(name, form.format(BEARER))]).fields == checked([]).fields


@pytest.mark.parametrize(("name", "form"), CARRIERS)
def test_another_token_is_refused(name: str, form: str) -> None:
    """Two different tokens are ambiguous, whether or not the provider reads its key from that field."""
    with pytest.raises(AmbiguousCredentials):
        checked([(name, form.format(OTHER))])
    with pytest.raises(AmbiguousCredentials):
        checked([(name, form.format(OTHER))], ("X-API-KEY", "AUTHORIZATION"))


def _coded(text: str, *, is_url_safe: bool = False) -> str:
    code = base64.urlsafe_b64encode if is_url_safe else base64.b64encode
    return code(text.encode()).decode()


COPIES = {
    "token:": "Basic " + _coded(f"{BEARER}:"),
    ":token": "Basic " + _coded(f":{BEARER}"),
    "user:token": "Basic " + _coded(f"user:{BEARER}"),
    "xy:token": "basic " + _coded(f"xy:{BEARER}"),
    "bearer in base64": _coded(f"Bearer {BEARER}"),
    "without padding": "Basic " + _coded(f"a:{BEARER}").rstrip("="),
    "the alphabet of addresses": _coded(f"ÿ¿ÿ:{BEARER}", is_url_safe=True),
    "within JSON in base64": "x=" + _coded(f'{{"key":"{BEARER}"}}') + "; y=1",
    "percent-encoded": "https://a/?key=" + BEARER.replace("s", "%73").replace("-", "%2D"),
    "all of it percent-encoded": "".join(f"%{ord(letter):02x}" for letter in BEARER),
    "behind a letter": f"key_{BEARER}",
    "before a letter": f"{BEARER}x",
    "percent-encoded twice": BEARER.replace("s", "%2573"),
    "its last letter percent-encoded": BEARER[:-1] + f"%{ord(BEARER[-1]):02x}",
    "base64 behind a word": "v1-" + _coded(BEARER),
    "base64 behind a slash": "x/" + _coded(BEARER),
}
WITHIN = [f"x{BEARER}", "A" + BEARER.replace("s", "%73"), "A" + _coded(BEARER)]


@pytest.mark.parametrize("value", COPIES.values(), ids=COPIES)
def test_a_coded_copy_of_the_token_is_removed(value: str) -> None:
    """What a provider would decode is the token, too; in whatever field, and wherever among its fields."""
    assert checked([("X-FORWARDED-AUTHORIZATION", value)]).fields == checked([]).fields
    request = ProxyRequest("GET", "/v1/models", [("X", value), ("X-API-KEY", BEARER)])
    assert Credentials(replace(PROVIDER, client_auth=("X-API-KEY", "AUTHORIZATION"))).bearer(request) == BEARER
    assert request.fields == [("X-API-KEY", BEARER)]


def test_a_coded_other_token_is_refused() -> None:
    """It is as ambiguous as one in clear."""
    with pytest.raises(AmbiguousCredentials):
        checked([("X-AUTH", "Basic " + _coded(f"user:{OTHER}"))])


@pytest.mark.parametrize("text", WITHIN)
@pytest.mark.parametrize("part", ["path", "query"])
def test_a_copy_within_a_word_of_the_address_is_refused(part: str, text: str) -> None:
    """Coded or not."""
    target = f"/v1/{text}" if part == "path" else f"/v1/models?x={text}"
    request = ProxyRequest("GET", target, [("AUTHORIZATION", f"Bearer {BEARER}")])
    with pytest.raises(TokenInQuery):
        Credentials(PROVIDER).bearer(request)


@pytest.mark.parametrize("query", ["auth=" + quote(_coded(f"user:{BEARER}")), "k=" + _coded(f"{BEARER}:").rstrip("=")])
def test_a_coded_token_in_the_query_is_refused(query: str) -> None:
    """As one in clear."""
    with pytest.raises(TokenInQuery):
        Credentials(PROVIDER).check_target("/v1/models", query)


@pytest.mark.parametrize(
    "value",
    ["sk-other", "sk-" + "a" * 30, "risk-BcDeFgHiJkLmNoPqRsTuVwXy", "task", "Basic c2stb3RoZXI6", "%zz%", "zay" * 20],
)
def test_values_that_are_no_tokens_stay(value: str) -> None:
    """A provider's own second credential, for one."""
    assert ("X-ANYTHING", value) in checked([("X-ANYTHING", value)]).fields


@pytest.mark.parametrize("value", [BEARER, f"k{BEARER}", _coded(f"user:{BEARER}")])
def test_a_token_in_place_of_an_id_is_replaced(value: str) -> None:
    """The ids go to the provider, into logs and back to the client."""
    request = checked([("X-REQUEST-ID", value), ("X-CORRELATION-ID", value)])
    assert value not in request.request_id + request.correlation_id
    assert ("X-CORRELATION-ID", request.correlation_id) in request.fields


def test_a_field_for_subprotocols_stays() -> None:
    """The handshake takes the credential out of it, and offers the rest to the provider."""
    offered = ("SEC-WEBSOCKET-PROTOCOL", f"realtime, openai-insecure-api-key.{BEARER}")
    assert offered in checked([offered]).fields
