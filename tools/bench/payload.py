"""What is sent and answered: the shapes of a stock OpenAI client and of its provider."""

import json
from collections.abc import Sequence

PATH = "/v1/chat/completions"


def _body(is_stream: bool) -> bytes:
    """950 bytes of a chat request."""
    document = {"model": "gpt-4o", "stream": is_stream, "messages": [{"role": "user", "content": ""}]}
    document["messages"] = [{"role": "user", "content": "x" * (950 - len(json.dumps(document)))}]
    return json.dumps(document).encode()


BODY = _body(False)
STREAM_BODY = _body(True)


def request_fields(token: str) -> list[tuple[str, str]]:
    """Return the fields of openai's Python client, but for Host and Content-Length: 14 with them."""
    return [
        ("Accept-Encoding", "gzip, deflate"),
        ("Connection", "keep-alive"),
        ("Accept", "application/json"),
        ("Content-Type", "application/json"),
        ("User-Agent", "OpenAI/Python 2.1.0"),
        ("X-Stainless-Lang", "python"),
        ("X-Stainless-Package-Version", "2.1.0"),
        ("X-Stainless-OS", "Linux"),
        ("X-Stainless-Arch", "x64"),
        ("X-Stainless-Runtime", "CPython"),
        ("X-Stainless-Runtime-Version", "3.11.7"),
        ("Authorization", f"Bearer {token}"),
    ]


def raw_request(
    port: int, token: str, body: bytes = BODY, query: str = "", more: Sequence[tuple[str, str]] = ()
) -> bytes:
    """Head and body as one piece."""
    lines = [f"POST {PATH}{query} HTTP/1.1", f"Host: 127.0.0.1:{port}"]
    lines += [f"{name}: {value}" for name, value in (*request_fields(token), *more)]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


RESPONSE = json.dumps(
    {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "gpt-4o-2024-08-06",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "y" * 700}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 19, "completion_tokens": 200, "total_tokens": 219},
        "system_fingerprint": "fp_bench",
    }
)

RESPONSE_FIELDS = [  # with Date, Server, Connection, Content-Type and Content-Length about 20
    ("access-control-expose-headers", "X-Request-ID"),
    ("openai-organization", "org-bench"),
    ("openai-processing-ms", "321"),
    ("openai-project", "proj_bench"),
    ("openai-version", "2020-10-01"),
    ("x-ratelimit-limit-requests", "10000"),
    ("x-ratelimit-limit-tokens", "30000000"),
    ("x-ratelimit-remaining-requests", "9999"),
    ("x-ratelimit-remaining-tokens", "29999982"),
    ("x-ratelimit-reset-requests", "6ms"),
    ("x-ratelimit-reset-tokens", "0s"),
    ("x-request-id", "req_0123456789abcdef"),
    ("cf-cache-status", "DYNAMIC"),
    ("strict-transport-security", "max-age=31536000; includeSubDomains; preload"),
    ("x-content-type-options", "nosniff"),
]
