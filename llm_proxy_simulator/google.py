"""Gemini-shaped responses: generateContent whole and streamed, token counts, embeddings, models, errors."""

import json
import re
from collections.abc import Iterator
from typing import Any

from llm_proxy_simulator.plan import Plan
from llm_proxy_simulator.responses import SimulatedResponse, json_response
from llm_proxy_simulator.uploads import Upload
from llm_proxy_simulator.usage import Counts, words_of
from llm_proxy_simulator.wire import Request

MODELS = ("gemini-2.5-flash", "gemini-2.5-pro", "gemini-embedding-001")
_PATH = re.compile(r"/v1(?:beta)?/models(?:/(?P<model>[^/:]+)(?::(?P<method>[A-Za-z]+))?)?")
_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}


def error(status: int, message: str, code: str | None = None, kind: str = "") -> SimulatedResponse:
    """Return Google's error object."""
    name = _STATUSES.get(status, "INTERNAL" if status >= 500 else "INVALID_ARGUMENT")
    return json_response({"error": {"code": status, "message": message, "status": name}}, status)


class GoogleResponses:
    """The Gemini API."""

    def respond(self, request: Request, upload: Upload, plan: Plan) -> SimulatedResponse:
        """Return the usual response to a request."""
        found = _PATH.fullmatch(request.path.rstrip("/"))
        if found is None:
            return error(404, "Requested entity was not found.")
        model, method = found["model"], found["method"]
        if request.method in ("GET", "HEAD") and method is None:
            return json_response({"models": [_model(name) for name in MODELS]} if model is None else _model(model))
        asked = upload.json()
        if request.method != "POST" or asked is None:
            return error(400, "Invalid JSON payload received.")
        if method == "countTokens":
            return json_response({"totalTokens": words_of(asked.get("contents"))})
        if method == "embedContent":
            return json_response({"embedding": {"values": [0.6, 0.8]}})
        if method == "batchEmbedContents":
            return json_response({"embeddings": [{"values": [0.6, 0.8]} for _ in asked.get("requests") or [0]]})
        counts = Counts.of(asked.get("contents"), asked.get("generationConfig") or {}, plan)
        if method == "streamGenerateContent":
            return _stream(request, model, counts, asked, plan)
        whole = _response(model, [_part(counts.text, asked, plan)], counts)
        return json_response(whole) if method == "generateContent" else error(404, "Method not found.")


def _stream(request: Request, model: str, counts: Counts, asked: dict[str, Any], plan: Plan) -> SimulatedResponse:
    texts = [counts.text] if plan.tool else list(counts.words) or [""]
    chunks = [
        _response(model, [_part(text, asked, plan)], counts, is_last=index == len(texts))
        for index, text in enumerate(texts, 1)
    ]
    if "alt=sse" in request.target:
        events = (b"data: " + json.dumps(chunk).encode() + b"\r\n\r\n" for chunk in chunks)
        return SimulatedResponse(200, "text/event-stream", events, is_stream=True)
    return SimulatedResponse(200, "application/json; charset=UTF-8", _array(chunks), is_stream=True)


def _array(chunks: list[dict[str, Any]]) -> Iterator[bytes]:
    """Yield the chunks as one JSON array, as the API streams without `alt=sse`."""
    for index, chunk in enumerate(chunks):
        yield (b"[" if index == 0 else b",\r\n") + json.dumps(chunk).encode()
    yield b"]"


def _part(text: str, asked: dict[str, Any], plan: Plan) -> dict[str, Any]:
    if not plan.tool:
        return {"text": text}
    tools = [name for tool in asked.get("tools") or [] for name in tool.get("functionDeclarations") or []]
    return {"functionCall": {"name": (tools or [{}])[0].get("name", "tool"), "args": {"city": "Paris"}}}


def _response(model: str, parts: list[dict[str, Any]], counts: Counts, *, is_last: bool = True) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": 0}
    if is_last:
        candidate["finishReason"] = "MAX_TOKENS" if counts.is_cut else "STOP"
    usage = {
        "promptTokenCount": counts.prompt,
        "candidatesTokenCount": counts.completion,
        "totalTokenCount": counts.prompt + counts.completion + counts.reasoning,
        **({"cachedContentTokenCount": counts.cached} if counts.cached else {}),
        **({"thoughtsTokenCount": counts.reasoning} if counts.reasoning else {}),
    }
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": model, "responseId": "sim"}


def _model(name: str) -> dict[str, Any]:
    methods = ["generateContent", "countTokens"]
    return {"name": f"models/{name}", "version": "001", "displayName": name, "supportedGenerationMethods": methods}
