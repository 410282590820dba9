"""The matrix of Python SDKs: JSON, stream, tool call, error, 429 and cancel, equal to the direct ones."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anthropic
import groq
import openai
import pytest
from clients.conftest import Way, World, as_sent, normal
from google import genai
from google.genai import errors as google_errors
from google.genai import types as google_types
from langchain_anthropic import ChatAnthropic
from langchain_openai import ChatOpenAI
from mistralai.client import Mistral
from mistralai.client.errors import SDKError as MistralError
from support.gateway import eventually

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
QUESTION: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "description": "Weather", "parameters": PARAMETERS}}
ANTHROPIC_TOOL = {"name": "weather", "description": "Weather", "input_schema": PARAMETERS}
_kept: list[genai.Client] = []
SLOW = {"X-Simulate": json.dumps({"interval_s": 0.2, "events": 200})}


def simulate(**plan: Any) -> dict[str, str]:
    """The field that steers the simulated provider."""
    return {"X-Simulate": json.dumps(plan)}


@dataclass(frozen=True)
class Client:
    """One SDK: how it asks, and what it raises.

    Attributes:
        name: The provider.
        ask: A whole response.
        stream: The chunks of a streamed one.
        tool: A response with a tool call.
        refusals: Its exceptions by status.
    """

    name: str
    ask: Callable[[Way, dict[str, str]], Any]
    stream: Callable[[Way, dict[str, str]], Any]
    tool: Callable[[Way, dict[str, str]], Any]
    refusals: dict[int, type[Exception]]


def _openai(way: Way) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{way.url}/v1", api_key=way.key, max_retries=0)


def _azure(way: Way) -> openai.AzureOpenAI:
    return openai.AzureOpenAI(
        azure_endpoint=way.url, api_key=way.key, api_version="2024-10-21", azure_deployment="gpt-4o", max_retries=0
    )


def _groq(way: Way) -> groq.Groq:
    return groq.Groq(base_url=way.url, api_key=way.key, max_retries=0)


def chat(make: Callable[[Way], Any], name: str, refusals: dict[int, type[Exception]]) -> Client:
    """A client of the chat completions family."""

    def create(way: Way, fields: dict[str, str], **more: Any) -> Any:
        more = {"model": "gpt-4o", "messages": QUESTION, "extra_headers": fields, **more}
        return make(way).chat.completions.create(**more)

    return Client(
        name,
        create,
        lambda way, fields: create(way, fields, stream=True),
        lambda way, fields: create(way, fields, tools=[TOOL]),
        refusals,
    )


def claude(way: Way) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=way.url, api_key=way.key, max_retries=0)


def _claude_message(way: Way, fields: dict[str, str], **more: Any) -> Any:
    asked: dict[str, Any] = {
        "model": "claude-sonnet-4-5",
        "max_tokens": 30,
        "messages": QUESTION,
        "extra_headers": fields,
    }
    beta = {"anthropic-beta": "interleaved-thinking-2025-05-14,made-up-2099-01-01"}
    return claude(way).messages.create(**asked | {"extra_headers": fields | beta} | more)


def _gemini(way: Way, fields: dict[str, str]) -> genai.Client:
    options = google_types.HttpOptions(base_url=way.url, headers=fields)
    made = genai.Client(api_key=way.key, http_options=options)
    _kept.append(made)  # it closes its connections when it is collected
    return made


def _gemini_tool(way: Way, fields: dict[str, str]) -> Any:
    declared = google_types.FunctionDeclaration(name="weather", parameters_json_schema=PARAMETERS)
    config = google_types.GenerateContentConfig(
        tools=[google_types.Tool(function_declarations=[declared])],
        automatic_function_calling=google_types.AutomaticFunctionCallingConfig(disable=True),
    )
    return _gemini(way, fields).models.generate_content(model="gemini-2.5-flash", contents="Paris?", config=config)


def _mistral(way: Way, fields: dict[str, str], method: str = "complete", **more: Any) -> Any:
    client = Mistral(server_url=way.url, api_key=way.key)
    return getattr(client.chat, method)(model="mistral-small", messages=QUESTION, http_headers=fields, **more)


def _statuses(module: Any) -> dict[int, type[Exception]]:
    return {401: module.AuthenticationError, 403: module.PermissionDeniedError, 429: module.RateLimitError,
            400: module.BadRequestError, 500: module.InternalServerError}  # fmt: skip


CLIENTS = {
    "openai": chat(_openai, "openai", _statuses(openai)),
    "azure": chat(_azure, "azure", _statuses(openai)),
    "groq": chat(_groq, "groq", _statuses(groq)),
    "anthropic": Client(
        "anthropic",
        _claude_message,
        lambda way, fields: _claude_message(way, fields, stream=True),
        lambda way, fields: _claude_message(way, fields, tools=[ANTHROPIC_TOOL]),
        _statuses(anthropic),
    ),
    "google": Client(
        "google",
        lambda way, fields: _gemini(way, fields).models.generate_content(model="gemini-2.5-flash", contents="Paris?"),
        lambda way, fields: _gemini(way, fields).models.generate_content_stream(
            model="gemini-2.5-flash", contents="Paris?"
        ),
        _gemini_tool,
        dict.fromkeys((400, 401, 403, 429), google_errors.ClientError) | {500: google_errors.ServerError},
    ),
    "mistral": Client(
        "mistral",
        _mistral,
        lambda way, fields: _mistral(way, fields, "stream"),
        lambda way, fields: _mistral(way, fields, tools=[TOOL]),
        dict.fromkeys((400, 401, 403, 429, 500), MistralError),
    ),
}


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> Client:
    """Each SDK."""
    return CLIENTS[request.param]


@pytest.mark.parametrize("kind", ["ask", "stream", "tool"])
def test_results_and_requests_are_the_direct_ones(world: World, client: Client, kind: str) -> None:
    """Whatever the SDK makes of the response; the provider got the same bytes but for the credential."""
    fields = simulate(tool=True) if kind == "tool" else {}
    results, requests = [], []
    for way in (world.direct(client.name), world.proxied(client.name)):
        found = getattr(client, kind)(way, fields)
        results.append([normal(chunk) for chunk in found] if kind == "stream" else normal(found))
        requests.append(as_sent(world.last(client.name)))
    assert results[0] == results[1]
    assert requests[0] == requests[1]
    assert kind != "tool" or "weather" in str(results[1])
    assert kind != "stream" or len(results[1]) > 5


@pytest.mark.parametrize("status", [400, 429, 500])
def test_the_providers_errors_are_the_sdks_own(world: World, client: Client, status: int) -> None:
    """The same exception with the same message as without a proxy."""
    said = []
    for way in (world.direct(client.name), world.proxied(client.name)):
        with pytest.raises(client.refusals[status]) as caught:
            client.ask(way, simulate(status=status))
        said.append(str(caught.value))
    assert said[0] == said[1]


@pytest.mark.parametrize("status", [401, 403, 429])
def test_the_proxys_refusals_are_the_sdks_own(world: World, client: Client, status: int) -> None:
    """Its exception for the status: an unknown token, one for another provider, one without requests left."""
    other = "openai" if client.name != "openai" else "mistral"
    token = {401: lambda: "sk-" + "a" * 22, 403: lambda: world.side.token(providers=[other]),
             429: lambda: world.side.token(max_requests=1)}[status]()  # fmt: skip
    way = world.proxied(client.name, token)
    if status == 429:
        client.ask(way, {})
    with pytest.raises(client.refusals[status]) as caught:
        client.ask(way, {})
    shown = getattr(caught.value, "status_code", None) or getattr(caught.value, "code", None)
    assert shown == status


def test_a_cancelled_stream_ends_at_the_provider(world: World, client: Client) -> None:
    """The SDK drops the response after the first chunk; the provider sees its client leave."""
    provider = world.side.providers[client.name]
    before = provider.state()["client_gone"] + provider.state()["fault"]
    stream = client.stream(world.proxied(client.name), SLOW)
    next(iter(stream))
    for name in ("close", "response"):
        closing = getattr(stream, name, None)
        if callable(closing):
            closing()
        elif closing is not None:
            closing.close()
    del stream
    eventually(lambda: provider.state()["client_gone"] + provider.state()["fault"] > before)


def test_anthropics_newer_credential_works_too(world: World) -> None:
    """`auth_token` goes into Authorization."""
    way = world.proxied("anthropic")
    found = anthropic.Anthropic(base_url=way.url, auth_token=way.key, api_key=None, max_retries=0)
    assert found.messages.count_tokens(model="claude-sonnet-4-5", messages=QUESTION).input_tokens == 6


def test_unknown_beta_names_arrive(world: World) -> None:
    """Lists that the proxy does not know pass as they came."""
    _claude_message(world.proxied("anthropic"), {})
    assert world.last("anthropic").values("anthropic-beta") == ["interleaved-thinking-2025-05-14,made-up-2099-01-01"]


@pytest.mark.parametrize("name", ["openai", "anthropic"])
def test_langchain(world: World, name: str) -> None:
    """Whole and streamed, as without a proxy."""
    found = []
    for way in (world.direct(name), world.proxied(name)):
        model: Any = (
            ChatOpenAI(model="gpt-4o", base_url=f"{way.url}/v1", api_key=way.key, max_retries=0)
            if name == "openai"
            else ChatAnthropic(model="claude-sonnet-4-5", base_url=way.url, api_key=way.key, max_tokens=30)
        )
        found.append((model.invoke("Paris?").content, [chunk.content for chunk in model.stream("Paris?")]))
    assert found[0] == found[1]


def test_other_endpoints_of_openais_client(world: World) -> None:
    """Embeddings, responses and models through the same server."""
    client = _openai(world.proxied("openai"))
    assert client.models.list().data
    assert client.embeddings.create(model="text-embedding-3-small", input="hello").data[0].embedding
    assert client.responses.create(model="gpt-4o", input="hello").output_text


def test_no_canary_is_seen_elsewhere(world: World) -> None:
    """After all of that: each provider saw its own key alone, and neither log nor events hold any, nor a token."""
    for name, provider in world.side.providers.items():
        witness = provider.log.read_text()
        assert world.token not in witness
        others = [other for other in world.side.providers if other != name]
        assert not any(f"canary-key-of-{other}-" in witness for other in others)
    events = world.side.gateway.folder / "events.jsonl"
    eventually(lambda: events.exists() and events.stat().st_size > 0)
    written = world.side.gateway.output() + events.read_text()
    assert "canary-key-of-" not in written
    assert world.token not in written
