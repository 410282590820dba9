"""events.secrets: no secret is in an event, whatever spelling, coding or pieces it came in."""

import gzip
import json
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

import pytest
import zstandard

from llm_proxy.events.capture import Capture, CaptureLimits
from llm_proxy.events.event import Event
from llm_proxy.events.file_sink import to_line
from llm_proxy.events.secrets import Secrets

TOKEN, KEY = "sk-abcdefghijklmnopqrstuvwx", "sk-proj-0123456789/ABCDEFGHIJKLMNOP"
OWN = "Tr0ub4dor&3xyzQ9-management"
ESCAPED = TOKEN.replace("-", "\\u002d").replace("q", "\\u0071")
TWICE = TOKEN.replace("-", "\\\\u002D")
PERCENT = "".join(f"%{ord(character):02X}" for character in TOKEN)


def stream(*deltas: dict[str, Any], n: int = 1) -> bytes:
    """Chunks of a chat, for each of `n` choices in turn."""
    chunks = [
        {"object": "chat.completion.chunk", "choices": [{"index": index, "delta": delta}]}
        for delta in deltas
        for index in range(n)
    ]
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"


def pieces(text: str, size: int) -> list[str]:
    """The text in pieces."""
    return [text[at : at + size] for at in range(0, len(text), size)]


def event(
    response: bytes = b"",
    request: bytes = b"",
    media_type: str = "application/json",
    encoding: str = "",
    request_encoding: str | None = None,
    path: str = "/v1/x",
    request_id: str = "r",
    request_type: str = "application/json",
    fields: Sequence[tuple[str, str]] = (),
) -> Event:
    """The event of an exchange."""
    tap = Capture(
        CaptureLimits(),
        method="POST",
        path=path,
        request_id=request_id,
        started_at_s=1.0,
        request_type=request_type,
        request_encoding=request_encoding,
    )
    tap.request_data(request)
    tap.response_started(200, [("Content-Type", media_type), ("Content-Encoding", encoding), *fields])
    tap.response_data(response)
    tap.finish(status=200, outcome="ok", duration_ns=1, secrets=(TOKEN, KEY), own_secrets=(OWN,))
    return tap.event()


LOGPROBS = {"content": [{"token": piece} for piece in pieces(KEY, 4)]}
SSE = "text/event-stream"
CASES: dict[str, dict[str, Any]] = {
    "plain": {"response": json.dumps({"error": KEY}).encode()},
    "gzip": {"response": gzip.compress(json.dumps({"error": KEY}).encode(), mtime=0), "encoding": "gzip"},
    "gzip stream": {
        "response": gzip.compress(stream({"content": KEY}), mtime=0),
        "encoding": "gzip",
        "media_type": SSE,
    },
    "deltas": {"response": stream(*({"content": text} for text in pieces(KEY, 6))), "media_type": SSE},
    "deltas of two choices": {"response": stream(*({"content": t} for t in pieces(KEY, 6)), n=2), "media_type": SSE},
    "deltas in gzip": {
        "response": gzip.compress(stream(*({"content": text} for text in pieces(KEY, 3))), mtime=0),
        "encoding": "gzip",
        "media_type": SSE,
    },
    "tool arguments": {
        "response": stream(
            *({"tool_calls": [{"index": 0, "function": {"arguments": text}}]} for text in pieces(KEY, 5))
        ),
        "media_type": SSE,
    },
    "deltas of an unknown kind": {
        "response": b"".join(b'data: {"text":"%s"}\n\n' % text.encode() for text in pieces(KEY, 5)),
        "media_type": SSE,
    },
    "escaped slash": {"response": json.dumps({"error": KEY}).replace("/", "\\/").encode()},
    "log probabilities": {"response": json.dumps({"choices": [{"text": KEY, "logprobs": LOGPROBS}]}).encode()},
    "escaped request": {"request": b'{"a":"%s"}' % ESCAPED.encode()},
    "request escaped twice": {"request": b'{"a":"{\\"b\\":\\"%s\\"}"}' % TWICE.encode()},
    "compressed request": {
        "request": zstandard.ZstdCompressor().compress(json.dumps({"a": TOKEN}).encode()),
        "request_encoding": "zstd",
    },
    "form": {"request": b"a=" + quote(KEY, safe="").encode(), "request_type": "application/x-www-form-urlencoded"},
    "path": {"path": f"/v1/files/{TOKEN}"},
    "escaped path": {"path": f"/v1/files/{PERCENT}"},
    "id": {"request_id": TOKEN},
    "type": {"request_type": f"text/plain; x={TOKEN}"},
    "path escaped twice": {"path": f"/v1/files/{PERCENT.replace('%', '%25')}"},
    "field of the response": {"fields": [("Access-Control-Allow-Origin", PERCENT)]},
    "broken off": {"response": b'{"error":"' + KEY[:-3].encode()},
}


def spelled_out(found: Event) -> str:
    """All that the event and its line say, as one text without escapes."""
    wire = json.loads(found.to_wire())
    bodies = [body or b"" for body in (found.request_body, found.response_body, found.response_tail)]
    line = json.loads(to_line(found))
    return " ".join([json.dumps(wire), *(body.decode("latin-1") for body in bodies), *map(str, line.values())])


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_no_secret_is_in_an_event(case: dict[str, Any]) -> None:
    """Decoded, joined, merged or unescaped: neither the whole nor its middle."""
    text = spelled_out(event(**case))
    for form in (
        text,
        text.replace("\\u002d", "-").replace("\\u002D", "-").replace("\\u0071", "q").replace("\\/", "/"),
    ):
        assert TOKEN[8:-4] not in form
        assert KEY[8:-4] not in form
        assert PERCENT[24:-12] not in form
        assert quote(KEY, safe="")[8:-4] not in form
        assert '"token": "0123' not in form


@pytest.mark.parametrize(
    "case",
    [{"path": f"/v1/x/{OWN}"}, {"request": OWN.encode()}, {"response": OWN[:-2].encode()}, {"request_id": OWN}],
    ids=lambda case: next(iter(case)),
)
def test_nothing_of_a_management_token_is_in_an_event(case: dict[str, Any]) -> None:
    """Not even the hint that a token has."""
    assert OWN[:9] not in spelled_out(event(**case))


def test_nothing_of_a_short_key_is_in_an_event() -> None:
    """A hint would be most of it."""
    short = Secrets(["hunter2hunter2"])
    assert short.hide(b"a hunter2hunter2 b") == b"a *** b"


def test_a_stream_that_spells_a_secret_is_the_response_that_it_stands_for() -> None:
    """Masked, as JSON, so that nothing can be put together again."""
    found = event(stream(*({"content": text} for text in pieces(f"it is {KEY}.", 6))), media_type=SSE)
    content = json.loads(found.response_body or b"")["choices"][0]["message"]["content"]
    assert (content, found.header("Content-Type")) == ("it is sk-proj-...MNOP.", "application/json")


def test_bodies_without_secrets_stay_as_they_were_sent() -> None:
    """Byte for byte, codings included."""
    body = gzip.compress(stream({"content": "caf\u00e9 100%"}), mtime=0)
    request = b'{"a":"\\u002d\\u003c"}'
    found = event(body, request, SSE, "gzip")
    assert (found.response_body, found.request_body, found.header("Content-Encoding")) == (body, request, "gzip")


@pytest.mark.parametrize("media_type", ["application/json", SSE])
def test_asterisks_that_hide_nothing_take_nothing_away(media_type: str) -> None:
    """A response with a rule of Markdown keeps its log probabilities, and a stream its chunks."""
    choice = {"text": "a\n***\nb", "logprobs": {"content": [{"token": "***"}]}}
    body = json.dumps({"choices": [choice]}).encode()
    body = b"data: " + body + b"\n\n" if media_type == SSE else body
    found = event(body, media_type=media_type)
    assert (found.response_body, found.header("Content-Type")) == (body, media_type)


def test_a_hidden_management_token_is_not_spelled_by_log_probabilities() -> None:
    """What the asterisks stand for is not beside them in pieces."""
    choice = {"text": OWN, "logprobs": {"content": [{"token": piece} for piece in pieces(OWN, 4)]}}
    found = event(json.dumps({"choices": [choice]}).encode())
    assert json.loads(found.response_body or b"") == {"choices": [{"text": "***"}]}


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.ZstdCompressor().compress], ids=["gzip", "zstd"])
def test_what_is_behind_the_part_that_is_looked_at_is_not_kept(compress: Callable[[bytes], bytes]) -> None:
    """Such a body is in the event without its coding, cut; work and memory stay bounded."""
    long = b'{"a":"' + b"a" * 2_000_000 + f"{KEY} {TOKEN}".encode() + b'"}'
    name = "gzip" if compress is gzip.compress else "zstd"
    found = event(compress(long), compress(long), encoding=name, request_encoding=name)
    for body in (found.request_body, found.response_body):
        assert body == long[:262_144]
    assert found.request_content_encoding is None
    assert (found.header("Content-Encoding"), found.response_tail) == ("", None)
    assert found.request_truncated
    assert found.response_truncated


@pytest.mark.parametrize("escaped", [b"pa%41ss-word-long", b"pa%2541ss-word-long", b"pa\\u002541ss-word-long"])
def test_a_secret_that_holds_escapes_is_hidden_where_they_are_escaped(escaped: bytes) -> None:
    """`%25` stands for the secret's own percent sign."""
    assert b"ss-word" not in Secrets(["pa%41ss-word-long"]).hide_spelled(b"at " + escaped)
