"""Anthropic-shaped responses: messages whole and streamed, token counts, models, and the vendor's errors."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

from llm_proxy_simulator.plan import Plan
from llm_proxy_simulator.responses import SimulatedResponse, json_response
from llm_proxy_simulator.uploads import Upload
from llm_proxy_simulator.usage import Counts, words_of
from llm_proxy_simulator.wire import Request

MODELS = ("claude-sonnet-4-5", "claude-haiku-4-5", "claude-opus-4-1")
_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def error(status: int, message: str, code: str | None = None, kind: str = "") -> SimulatedResponse:
    """Return Anthropic's error object."""
    name = _KINDS.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return json_response(
        {"type": "error", "error": {"type": name, "message": message}, "request_id": "req_sim"}, status
    )


class AnthropicResponses:
    """The Messages API."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)

    def respond(self, request: Request, upload: Upload, plan: Plan) -> SimulatedResponse:
        """Return the usual response to a request."""
        method = "GET" if request.method == "HEAD" else request.method
        path = request.path.rstrip("/")
        if (method, path) == ("POST", "/v1/messages"):
            return self._message(upload, plan)
        if (method, path) == ("POST", "/v1/messages/count_tokens"):
            return json_response({"input_tokens": words_of((upload.json() or {}).get("messages"))})
        if (method, path) == ("GET", "/v1/models"):
            data = [_model(name) for name in MODELS]
            return json_response({"data": data, "has_more": False, "first_id": MODELS[0], "last_id": MODELS[-1]})
        if method == "GET" and path.startswith("/v1/models/"):
            name = path.removeprefix("/v1/models/")
            return json_response(_model(name)) if name in MODELS else error(404, f"model: {name}")
        return error(404, "Not found")

    def _message(self, upload: Upload, plan: Plan) -> SimulatedResponse:
        asked = upload.json()
        if asked is None or not isinstance(asked.get("messages"), list) or "max_tokens" not in asked:
            return error(400, "messages: Field required")
        counts = Counts.of([asked.get("system"), asked["messages"]], asked, plan)
        message = {
            "id": f"msg_sim{next(self._ids):08d}",
            "type": "message",
            "role": "assistant",
            "model": str(asked.get("model", MODELS[0])),
            "content": [_block(counts, asked, plan)],
            "stop_reason": "tool_use" if plan.tool else "max_tokens" if counts.is_cut else "end_turn",
            "stop_sequence": None,
            "usage": _usage(counts),
        }
        if asked.get("stream"):
            return SimulatedResponse(
                200, "text/event-stream; charset=utf-8", _events(message, counts, plan), is_stream=True
            )
        return json_response(message)


def _usage(counts: Counts) -> dict[str, int]:
    """Return the counts; `input_tokens` are those that no cache held."""
    return {
        "input_tokens": counts.prompt - counts.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": counts.cached,
        "output_tokens": counts.completion,
    }


def _block(counts: Counts, asked: dict[str, Any], plan: Plan) -> dict[str, Any]:
    if not plan.tool:
        return {"type": "text", "text": counts.text}
    tools: list[dict[str, Any]] = asked.get("tools") or [{}]
    return {"type": "tool_use", "id": "toolu_sim", "name": tools[0].get("name", "tool"), "input": {"city": "Paris"}}


def _events(message: dict[str, Any], counts: Counts, plan: Plan) -> Iterator[bytes]:
    def event(kind: str, **about: Any) -> bytes:
        return f"event: {kind}\ndata: {json.dumps({'type': kind, **about})}\n\n".encode()

    usage, block = message["usage"], message["content"][0]
    begun = {**message, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    yield event("message_start", message=begun)
    empty = {**block, "input": {}} if plan.tool else {"type": "text", "text": ""}
    yield event("content_block_start", index=0, content_block=empty)
    yield event("ping")
    if plan.tool:
        for part in ('{"city": ', '"Paris"}'):
            yield event("content_block_delta", index=0, delta={"type": "input_json_delta", "partial_json": part})
    else:
        for word in counts.words:
            yield event("content_block_delta", index=0, delta={"type": "text_delta", "text": word})
    yield event("content_block_stop", index=0)
    delta = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    yield event("message_delta", delta=delta, usage={"output_tokens": usage["output_tokens"]})
    yield event("message_stop")


def _model(name: str) -> dict[str, Any]:
    return {"type": "model", "id": name, "display_name": name, "created_at": "2025-01-01T00:00:00Z"}
