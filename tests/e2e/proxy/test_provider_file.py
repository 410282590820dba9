"""A provider file of one's own, and the limits on bodies, through the whole server."""

import json
import sqlite3
from collections.abc import Iterator

import pytest
from support.gateway import Gateway, Token, eventually, running_gateway
from support.provider import Provider
from support.raw import Client, request

FILE = """
default_api: own
apis:
  own:
    base_url: {url}
    allowed_methods: [GET, POST]
    allowed_endpoints: [/v1/chat/completions, /v1/files, /v1/models, /v1beta/]
    allowed_origins: [https://app.example]
    required_headers: [x-team]
    param_whitelist:
      model: [gpt-4o, gpt-4.1-*]
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, provider: Provider) -> Iterator[Gateway]:
    """The proxy with that file and a limit on bodies."""
    folder = tmp_path_factory.mktemp("gateway")
    (folder / "providers.yaml").write_text(FILE.format(url=provider.url))
    variables = {"API_CONFIG_PATH": str(folder / "providers.yaml"), "MAX_REQUEST_SIZE": "64KB"}
    with running_gateway(folder, provider.url, UPSTREAM_PROXY_HEADERS="true", **variables) as running:
        yield running


TEAM = {"X-Team": "a", "Content-Type": "application/json"}


def test_a_value_outside_the_list_is_named(gateway: Gateway, token: Token) -> None:
    """The message names parameter, value and patterns."""
    status, _, body = gateway.ask("POST", "/v1/chat/completions", b'{"model":"gpt-3.5"}', token=token, headers=TEAM)
    said = "Parameter 'model' value 'gpt-3.5' is not allowed. Allowed patterns: [gpt-4o gpt-4.1-*]"
    assert (status, json.loads(body)) == (
        400,
        {
            "error": {
                "message": said,
                "type": "invalid_request_error",
                "param": "model",
                "code": "param_not_allowed",
            },
            "code": "param_not_allowed",
        },
    )


def test_an_allowed_value_passes_with_the_body_as_it_came(gateway: Gateway, token: Token, provider: Provider) -> None:
    """Looked at and forwarded unchanged; named as the proxy, because that was asked for."""
    body = b'{ "model" : "gpt-4.1-mini","messages":[] }'
    assert gateway.ask("POST", "/v1/chat/completions", body, token=token, headers=TEAM)[0] == 200
    seen = provider.seen()[-1]
    assert (seen.body_bytes, seen.values("X-Proxy")) == (len(body), ["llm-proxy"])


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "required_header_missing"),
        ({"X-Team": "a", "Origin": "https://evil.example"}, "origin_not_allowed"),
    ],
)
def test_fields_are_checked_before_the_token(gateway: Gateway, headers: dict[str, str], code: str) -> None:
    """Without a token, the earlier step answers; a refused origin may not read the response."""
    _, fields, body = gateway.ask("GET", "/v1/models", headers=headers)
    assert json.loads(body)["code"] == code
    assert "Access-Control-Allow-Origin" not in fields


def test_paths_outside_v1_are_mounted(gateway: Gateway, token: Token, provider: Provider) -> None:
    """The file allows /v1beta/, so it is the proxy's; its errors are the proxy's, too."""
    seen = provider.state()["requests"]
    gateway.ask("GET", "/v1beta/models", token=token, headers=TEAM)
    assert provider.state()["requests"] == seen + 1
    status, fields, body = gateway.ask("GET", "/v1beta/models", headers=TEAM)
    assert (status, json.loads(body)["error"]["code"], fields["WWW-Authenticate"]) == (401, "invalid_token", "Bearer")
    assert gateway.get("/manage/projects")[0] == 401
    assert gateway.get("/live")[0] == 200


def test_a_declared_size_beyond_the_limit_is_refused_unread(gateway: Gateway, token: Token, provider: Provider) -> None:
    """413 although the client has not sent its body; no 100 Continue, nothing dispatched, nothing charged."""
    seen = provider.state()["requests"]
    auth = f"Authorization: Bearer {token.bearer}"
    with Client(gateway.address) as client:
        head = request("/v1/files", auth, "X-Team: a", "Content-Length: 65537", "Expect: 100-continue", method="POST")
        response = client.send(head).response("POST")
    assert (response.status, json.loads(response.body)["code"]) == (413, "request_too_large")
    assert provider.state()["requests"] == seen


def test_a_chunked_body_is_cut_off_at_the_limit(gateway: Gateway, token: Token, provider: Provider) -> None:
    """413 once more than the limit has come; the body is checked first, so nothing is dispatched or charged."""
    seen = provider.state()["requests"]
    auth = f"Authorization: Bearer {token.bearer}"
    with Client(gateway.address) as client:
        head = request("/v1/files", auth, "X-Team: a", "Transfer-Encoding: chunked", method="POST")
        piece = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
        response = client.send(head + b'6\r\n{"x":"\r\n' + piece * 6).response("POST")
    assert (response.status, json.loads(response.body)["code"]) == (413, "request_too_large")
    assert provider.state()["requests"] == seen


def test_a_database_that_takes_no_write_fails_closed(gateway: Gateway, provider: Provider) -> None:
    """A token cannot be charged, so nothing is sent: 503, Retry-After: 1; it resumes by itself."""
    token, seen = gateway.token(max_requests=5), provider.state()["requests"]
    blocker = sqlite3.connect(gateway.database, isolation_level=None, timeout=20)
    try:
        blocker.execute("BEGIN IMMEDIATE")
        status, fields, body = gateway.ask("GET", "/v1/models", token=token, headers=TEAM)
        assert (status, json.loads(body)["code"], fields["Retry-After"]) == (503, "service_unavailable", "1")
        assert gateway.get("/live")[0] == 200
    finally:
        blocker.execute("ROLLBACK")
        blocker.close()
    assert provider.state()["requests"] == seen
    eventually(lambda: gateway.ask("GET", "/v1/models", token=token, headers=TEAM)[0] == 200, 2.0)
    assert gateway.request_count(token) == 1
    assert gateway.wait_for_access(row=23, token_id=token.id)
