"""The simulated provider as clients meet it: responses, streams, faults, and what it witnessed."""

import hashlib
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from openai import OpenAI
from support.provider import Provider, running_provider

HELLO: Any = [{"role": "user", "content": "three words here"}]


@pytest.fixture
def client(provider: Provider) -> OpenAI:
    """A stock client of the provider."""
    return OpenAI(base_url=f"{provider.url}/v1", api_key="sk-any", max_retries=0, timeout=10)


def exchange(provider: Provider, request: bytes) -> bytes:
    """Everything that comes back for these bytes, until the provider closes; b"RESET" in place of a clean end."""
    parts = urlsplit(provider.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as sock:
        sock.sendall(request)
        response = b""
        try:
            while data := sock.recv(65536):
                response += data
        except ConnectionResetError:
            response += b"RESET"
    return response


def get(plan: str, *, version: str = "1.1") -> bytes:
    """A GET with a plan, on its own connection."""
    return (
        f"GET /v1/models/gpt-4o HTTP/{version}\r\nHost: a\r\nConnection: close\r\nX-Simulate: {plan}\r\n\r\n".encode()
    )


def test_whole_and_streamed_responses_agree(client: OpenAI) -> None:
    """A stream's words and counts are those of the whole response."""
    whole = client.chat.completions.create(model="gpt-4o", messages=HELLO)
    chunks = list(
        client.chat.completions.create(
            model="gpt-4o", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text.rstrip() == whole.choices[0].message.content
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == 3
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_usage_is_only_in_the_stream_when_asked_for(client: OpenAI) -> None:
    """Without stream_options no chunk carries usage, as with the real one."""
    chunks = list(client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True))
    assert all("usage" not in chunk.model_fields_set for chunk in chunks)


def test_completion_limit_ends_with_length(client: OpenAI) -> None:
    """max_completion_tokens=5 gives five words and finish_reason length."""
    response = client.chat.completions.create(model="gpt-4o", messages=HELLO, max_completion_tokens=5)
    assert (response.choices[0].finish_reason, response.usage and response.usage.completion_tokens) == ("length", 5)


def test_responses_api(client: OpenAI) -> None:
    """A streamed response ends with the object that the whole form returns."""
    whole = client.responses.create(model="gpt-5", input="two words")
    *_, last = client.responses.create(model="gpt-5", input="two words", stream=True)
    assert last.type == "response.completed"
    assert last.response.output_text == whole.output_text
    assert whole.usage is not None
    assert whole.usage.input_tokens == 2
    assert last.response.usage == whole.usage


def test_uploaded_file_comes_back(client: OpenAI) -> None:
    """Two megabytes that look like boundaries come back byte for byte."""
    content = b"\r\n--x" * 500_000
    file = client.files.create(file=("a.bin", content), purpose="user_data")
    assert file.bytes == len(content)
    assert client.files.content(file.id).read() == content


def test_other_families(client: OpenAI) -> None:
    """Embeddings, audio, images, moderations, completions, models and made objects are what a client can read."""
    assert [len(e.embedding) for e in client.embeddings.create(model="m", input=["a", "b"], dimensions=8).data] == [
        8,
        8,
    ]
    assert len(client.audio.speech.create(model="tts-1", voice="alloy", input="x").read()) == 48_000
    said = client.audio.transcriptions.create(model="whisper-1", file=("a.wav", b"abc"))
    assert hashlib.sha256(b"abc").hexdigest() in said.text
    assert client.images.generate(model="gpt-image-1", prompt="x").data
    assert not client.moderations.create(input="x").results[0].flagged
    assert client.completions.create(model="m", prompt="x").choices[0].text
    assert "gpt-4o" in {model.id for model in client.models.list()}
    batch = client.batches.create(completion_window="24h", endpoint="/v1/responses", input_file_id="f")
    assert client.batches.retrieve(batch.id).input_file_id == "f"


def test_witness_line(provider: Provider) -> None:
    """The line has the raw target, the fields in order with repetitions, and the body's length and hash."""
    body = b"4\r\nabcd\r\n3\r\nefg\r\n0\r\n\r\n"
    head = b"POST /v1/x//%2f?a=b%zz HTTP/1.1\r\nHost: h\r\nX-B: 1\r\nx-a: 2\r\nX-B: 3\r\nAuthorization: Bearer k\r\n"
    exchange(provider, head + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + body)
    seen = provider.wait_for(1)[0]
    assert (seen.method, seen.target, seen.authorization) == ("POST", "/v1/x//%2f?a=b%zz", "Bearer k")
    assert seen.fields[:4] == [("Host", "h"), ("X-B", "1"), ("x-a", "2"), ("X-B", "3")]
    assert (seen.body_bytes, seen.body_sha256) == (7, hashlib.sha256(b"abcdefg").hexdigest())
    assert seen.body_is_whole
    assert seen.is_chunked


def test_broken_upload_is_witnessed(provider: Provider) -> None:
    """A body that ends early is a line with what came, marked as not whole."""
    parts = urlsplit(provider.url)
    with socket.create_connection((parts.hostname, parts.port)) as sock:
        sock.sendall(b"POST /v1/files HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc")
    seen = provider.wait_for(1)[0]
    assert (seen.body_bytes, seen.body_is_whole) == (3, False)
    provider.wait_for_state(client_gone=1, running=0)


@pytest.mark.parametrize(
    ("plan", "begins", "ends"),
    [
        pytest.param("status=503", b"HTTP/1.1 503 Service Unavailable\r\n", b"}\n", id="status"),
        pytest.param("cut=head", b"", b"", id="no-byte"),
        pytest.param("cut=head; reset", b"RESET", b"RESET", id="reset-before-head"),
        pytest.param("cut=mid-head", b"HTTP/1.1 200 OK\r\n", b"", id="half-a-head"),
        pytest.param("cut=body; after=0", b"HTTP/1.1 200 OK\r\n", b"\r\n\r\n", id="head-only"),
        pytest.param("cut=body; after=5; body=0123456789", b"HTTP/1.1 200", b"\r\n\r\n01234", id="mid-body"),
        pytest.param("cut=body; after=5; body=0123456789; reset", b"HTTP/1.1 200", b"RESET", id="reset-mid-body"),
        pytest.param(
            "cut=body;after=3;framing=chunked;body=abcdef", b"HTTP/1.1 200", b"3\r\nabc\r\n", id="cut-chunked"
        ),
        pytest.param("garbage", b"\x16\x03\x01", b"\r\n", id="garbage"),
        pytest.param("interim=103", b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200", b"}\n", id="interim"),
        pytest.param("framing=chunked; body=abc", b"HTTP/1.1 200", b"3\r\nabc\r\n0\r\n\r\n", id="chunked"),
        pytest.param("framing=chunked;body=abc;trailers=X-T: 1", b"HTTP/", b"0\r\nX-T: 1\r\n\r\n", id="trailers"),
        pytest.param("version=1.0; framing=chunked; body=abc", b"HTTP/1.0 200", b"\r\n\r\nabc", id="old-version"),
        pytest.param("body=abc; drip=1ms", b"HTTP/1.1 200", b"\r\n\r\nabc", id="drip"),
    ],
)
def test_faults_sit_at_the_exact_byte(provider: Provider, plan: str, begins: bytes, ends: bytes) -> None:
    """What is on the wire is what the plan says, no more and no less."""
    response = exchange(provider, get(plan))
    assert response.startswith(begins)
    assert response.endswith(ends)
    assert begins or ends or "mid-head" in plan or response == b""


def test_fields_of_a_plan_are_repeated_in_order(provider: Provider) -> None:
    """Repeated fields stay separate lines."""
    response = exchange(provider, get('{"fields": [["Set-Cookie", "a=1"], ["X-A", "1"], ["Set-Cookie", "b=2"]]}'))
    assert b"Set-Cookie: a=1\r\nX-A: 1\r\nSet-Cookie: b=2\r\n\r\n" in response


def test_silence_lasts_until_the_client_goes(provider: Provider) -> None:
    """A silent exchange is running until its client closes, and then ends at once."""
    parts = urlsplit(provider.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as sock:
        sock.sendall(get("silence=body; after=3; body=abcdef"))
        assert sock.recv(65536)
        provider.wait_for_state(running=1)
    provider.wait_for_state(running=0, client_gone=1)


def test_rules_choose_by_path_and_count(provider: Provider) -> None:
    """The second POST alone fails; the rule's count leaves other paths out."""
    provider.set_rules({"method": "POST", "path": "/v1/chat/*", "nth": [2], "status": 500})
    post = b"POST %b HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"
    paths = (b"/v1/chat/completions", b"/v1/responses", b"/v1/chat/completions", b"/v1/chat/completions")
    assert [exchange(provider, post % path)[9:12] for path in paths] == [b"400", b"200", b"500", b"400"]


@pytest.mark.parametrize(
    ("rules", "fault"),
    [
        ("- {status: many}", "rule 1: status: expected a whole number"),
        ("- {status: 500}\n- {cutt: body}", "rule 2: cutt is unknown"),
        ("status: 500", "expected a list of mappings"),
        ("- [", "is neither YAML nor JSON"),
        ("- {cut: tail}", "cut: expected one of head, mid-head, body"),
    ],
)
def test_bad_rules_are_one_clear_line(tmp_path: Path, rules: str, fault: str) -> None:
    """The command ends with 1 and says which rule and name is wrong."""
    from click.testing import CliRunner

    from llm_proxy.cli.simulate import simulate_provider

    (tmp_path / "rules.yaml").write_text(rules)
    result = CliRunner().invoke(simulate_provider, ["--faults", str(tmp_path / "rules.yaml")])
    assert result.exit_code == 1
    assert fault in result.stderr
    assert result.stderr.count("\n") == 1


def test_key_is_demanded(tmp_path: Path) -> None:
    """With --key another key is 401, also when it is a prefix of the right one."""
    key = tmp_path / "key"
    key.write_text("sk-right\n")
    with running_provider(tmp_path, "--key", f"@{key}") as provider:
        request = "GET /v1/models HTTP/1.1\r\nHost: h\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\r\n"
        responses = [exchange(provider, request.format(key).encode())[9:12] for key in ("sk-right", "sk-righ", "")]
    assert responses == [b"200", b"401", b"401"]


def test_bad_plan_in_a_request_is_400(provider: Provider) -> None:
    """A misspelt plan does not pass for the usual response."""
    response = exchange(provider, get("stats=500"))
    assert response.startswith(b"HTTP/1.1 400")
    assert "stats is unknown" in json.loads(response.partition(b"\r\n\r\n")[2])["error"]["message"]
