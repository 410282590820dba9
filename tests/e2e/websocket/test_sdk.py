"""Stock clients of OpenAI's own library work over the proxy's WebSockets, and see its refusals."""

import asyncio
from collections.abc import Iterator

import openai
import pytest
from support.gateway import Gateway, Token

pytestmark = pytest.mark.filterwarnings("ignore:connect.. must be used:DeprecationWarning")  # OpenAI's library does not


@pytest.fixture
def client(gateway: Gateway, token: Token) -> Iterator[openai.OpenAI]:
    """As users make it: a key and a base URL."""
    with openai.OpenAI(api_key=token.bearer, base_url=f"{gateway.url}/v1", max_retries=0) as client:
        yield client


def test_responses(client: openai.OpenAI, gateway: Gateway, token: Token) -> None:
    """Three turns on one connection are three requests."""
    texts = []
    with client.responses.connect() as connection:
        for _ in range(3):
            connection.response.create(model="gpt-4o", input="hello")
            for event in connection:
                if event.type == "response.completed":
                    texts.append(event.response.output_text)
                    break
    assert texts == ["w0 w1 w2 w3 "] * 3
    assert gateway.request_count(token) == 3


def test_a_refused_turn(gateway: Gateway) -> None:
    """The library shows the refusal as the API's own error."""
    token = gateway.token(max_requests=1)
    with (
        openai.OpenAI(api_key=token.bearer, base_url=f"{gateway.url}/v1", max_retries=0) as client,
        client.responses.connect() as connection,
    ):
        kinds = []
        for _ in range(2):
            connection.response.create(model="gpt-4o", input="hello")
            kinds += [next(event.type for event in connection if event.type in ("response.completed", "error"))]
    assert kinds == ["response.completed", "error"]


def test_realtime(client: openai.OpenAI, gateway: Gateway, token: Token) -> None:
    """A session, an update and a turn."""
    with client.realtime.connect(model="gpt-realtime") as connection:
        assert connection.recv().type == "session.created"
        connection.session.update(session={"type": "realtime", "instructions": "Be brief."})
        assert connection.recv().type == "session.updated"
        connection.response.create()
        assert any(event.type == "response.done" for event in connection)
    assert gateway.request_count(token) == 1


def test_both_without_threads(gateway: Gateway, token: Token) -> None:
    """The asynchronous client does the same."""

    async def run() -> list[str]:
        found = list[str]()
        async with openai.AsyncOpenAI(api_key=token.bearer, base_url=f"{gateway.url}/v1", max_retries=0) as client:
            async with client.responses.connect() as responses:
                await responses.response.create(model="gpt-4o", input="hello")
                async for event in responses:
                    if event.type == "response.completed":
                        found.append(event.type)
                        break
            async with client.realtime.connect(model="gpt-realtime") as realtime:
                await realtime.response.create()
                async for said in realtime:
                    if said.type == "response.done":
                        found.append(said.type)
                        break
        return found

    assert asyncio.run(run()) == ["response.completed", "response.done"]
    assert gateway.request_count(token) == 2
