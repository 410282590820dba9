"""forwarding.credentials: copies of the token are removed, another token is refused, in whichever field it stands."""

from dataclasses import replace

import pytest

from llm_proxy.errors import AmbiguousCredentials
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


@pytest.mark.parametrize("value", ["sk-other", "sk-" + "a" * 30, "risk-AbCdEfGhIjKlMnOpQrStUvWx", "task"])
def test_values_that_are_no_tokens_stay(value: str) -> None:
    """A provider's own second credential, for one."""
    assert ("X-ANYTHING", value) in checked([("X-ANYTHING", value)]).fields


def test_a_token_in_place_of_an_id_is_replaced() -> None:
    """The ids go to the provider, into logs and back to the client."""
    request = checked([("X-REQUEST-ID", BEARER), ("X-CORRELATION-ID", BEARER)])
    assert BEARER not in request.request_id + request.correlation_id


def test_a_field_for_subprotocols_stays() -> None:
    """The handshake takes the credential out of it, and offers the rest to the provider."""
    offered = ("SEC-WEBSOCKET-PROTOCOL", f"realtime, openai-insecure-api-key.{BEARER}")
    assert offered in checked([offered]).fields
