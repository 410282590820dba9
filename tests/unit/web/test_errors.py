"""Bodies of errors, to the byte."""

import inspect
import json

import pytest

from llm_proxy import errors
from llm_proxy.web.errors import flat_form, render

ALL = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.LlmProxyError)]


def made(kind: type[errors.LlmProxyError]) -> errors.LlmProxyError:
    """One of a class; the few that need an argument get one."""
    try:
        return kind()
    except TypeError:
        return kind("drain")


def test_openai_form() -> None:
    """OpenAI's error object, with the newline at the end."""
    status, fields, body = render(errors.TokenExpired())
    assert body == (
        b'{"error":{"message":"Token has expired","type":"authentication_error","param":null,"code":"token_expired"},'
        b'"code":"token_expired"}\n'
    )
    assert status == "401 Unauthorized"
    assert fields == [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("WWW-Authenticate", "Bearer"),
    ]


def test_description_stands_before_code() -> None:
    """Keys in the order error, description, code."""
    body = json.loads(render(errors.UpstreamAuthError())[2])
    assert list(body) == ["error", "description", "code"]
    assert body["description"] == "failed to load upstream API key"


def test_flat_form() -> None:
    """/manage: text, and a code only where there is one."""
    assert flat_form(errors.ResourceNotFound("project not found")) == b'{"error":"project not found"}\n'
    assert flat_form(errors.NotFound()) == b'{"error":"Not found","code":"not_found"}\n'


def test_fields_of_an_error() -> None:
    """Allow, Retry-After and Connection are the response's own."""
    assert ("Allow", "GET, POST") in render(errors.MethodNotAllowed(allow=("GET", "POST")))[1]
    assert {("Connection", "close"), ("Retry-After", "1")} <= set(render(errors.Draining())[1])


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (errors.TokenExpired(), "false"),
        (errors.ProviderNotAllowed(), "false"),
        (errors.TokenBudgetExceeded(), "false"),
        (errors.Draining(), None),
    ],
)
def test_anthropics_clients_are_told_what_is_final(error: errors.LlmProxyError, told: str | None) -> None:
    """401 and 403 are not repeated, as Claude Code does by itself; what may pass has Retry-After and no such field."""
    found = [value for name, value in render(error, shape="anthropic")[1] if name == "x-should-retry"]
    assert found == ([] if told is None else [told])


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_error_can_be_answered(kind: type[errors.LlmProxyError]) -> None:
    """A known status with its reason, a type, and valid JSON in both forms."""
    error = made(kind)
    for is_openai in (True, False):
        status, _, body = render(error, is_openai=is_openai)
        assert status.split()[0] == str(error.status)
        assert len(status.split()) > 1
        assert json.loads(body)["error"]
