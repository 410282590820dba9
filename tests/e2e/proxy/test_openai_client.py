"""A stock OpenAI client that holds only a withering token does its work through the proxy."""

import hashlib
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from support.gateway import PROVIDER_KEY, Gateway, Token
from support.provider import Provider


@pytest.fixture
def token(both_lanes: Gateway) -> Token:
    """The only thing that the client holds."""
    return both_lanes.token()


@pytest.fixture
def client(both_lanes: Gateway, token: Token) -> Iterator[openai.OpenAI]:
    """As users make it: a key and a base URL."""
    with openai.OpenAI(api_key=token.bearer, base_url=f"{both_lanes.url}/v1", max_retries=0) as client:
        yield client


MESSAGES: Any = [{"role": "user", "content": "hello"}]


def test_a_whole_completion(client: openai.OpenAI, provider: Provider) -> None:
    """The response is the provider's; the provider got its key, and the token nowhere in the request."""
    completion = client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert completion.choices[0].message.content
    assert completion.usage is not None
    assert completion.usage.completion_tokens > 0
    seen = provider.seen()[-1]
    assert seen.authorization == f"Bearer {PROVIDER_KEY}"
    assert client.api_key not in str(seen)


def test_a_streamed_completion(client: openai.OpenAI) -> None:
    """Every piece arrives, and the stream ends of itself."""
    whole = client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    stream: Any = client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True)
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert len(pieces) > 10
    assert "".join(pieces).strip() == (whole.choices[0].message.content or "").strip()


def test_embeddings(client: openai.OpenAI) -> None:
    """Vectors arrive for each input."""
    response = client.embeddings.create(model="text-embedding-3-small", input=["a", "b"])
    assert [item.index for item in response.data] == [0, 1]
    assert len(response.data[0].embedding) > 10


def test_models(client: openai.OpenAI) -> None:
    """The list of models is the provider's."""
    assert "gpt-4o" in [model.id for model in client.models.list()]


def test_an_uploaded_file_comes_back_as_it_was(client: openai.OpenAI) -> None:
    """A multipart upload of binary content, then the same bytes."""
    content = bytes(range(256)) * 4096
    file = client.files.create(file=("data.bin", content), purpose="assistants")
    assert file.bytes == len(content)
    assert hashlib.sha256(client.files.content(file.id).read()).digest() == hashlib.sha256(content).digest()


def test_audio_bytes(client: openai.OpenAI, provider: Provider) -> None:
    """Speech arrives as the bytes that the provider sent."""
    spoken = client.audio.speech.create(model="tts-1", voice="alloy", input="hello").content
    assert len(spoken) == provider.exchanges()[-1]["sent_bytes"]


def test_a_refused_token_is_an_authentication_error(both_lanes: Gateway) -> None:
    """The client's own exception for 401, with our code and message."""
    client = openai.OpenAI(api_key="sk-" + "A" * 22, base_url=f"{both_lanes.url}/v1", max_retries=0)
    with client, pytest.raises(openai.AuthenticationError) as caught:
        client.models.list()
    assert caught.value.code == "token_not_found"
    assert "Token not found" in caught.value.message


def test_an_exhausted_token_is_not_retried(both_lanes: Gateway) -> None:
    """The client asks once although it may retry: x-should-retry is false."""
    token = both_lanes.token(max_requests=1)
    with openai.OpenAI(api_key=token.bearer, base_url=f"{both_lanes.url}/v1", max_retries=5) as client:
        client.models.list()
        with pytest.raises(openai.RateLimitError) as caught:
            client.models.list()
    assert caught.value.code == "rate_limit_exceeded"
    assert len(both_lanes.wait_for_access(number=2, token_id=token.id)) == 2
