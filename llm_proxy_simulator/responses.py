"""OpenAI-shaped responses: for each endpoint family what a stock client can read, whole and streamed."""

import base64
import fnmatch
import hashlib
import itertools
import json
import math
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from llm_proxy_simulator.plan import Plan
from llm_proxy_simulator.streams import (
    chat_events,
    completion_events,
    response_events,
    response_object,
    tool_call,
)
from llm_proxy_simulator.uploads import Upload
from llm_proxy_simulator.usage import Counts, words_of
from llm_proxy_simulator.wire import Request

MODELS = ("gpt-4o", "gpt-4o-mini", "gpt-4.1-mini", "gpt-5", "text-embedding-3-small", "whisper-1", "tts-1")
SPEECH_BYTES = 48_000
_OBJECTS_KEPT = 1000
_BLOCK = bytes(range(256)) * 256


@dataclass(slots=True)
class SimulatedResponse:
    """What is sent when no plan says otherwise; a stream's pieces are its events."""

    status: int
    content_type: str
    body: Iterable[bytes]
    length: int | None = None  # None: framed by chunks
    is_stream: bool = False
    fields: list[tuple[str, str]] = field(default_factory=list)


def json_response(value: Any, status: int = 200) -> SimulatedResponse:
    """Return a JSON body with its length."""
    data = json.dumps(value, indent=2).encode() + b"\n"
    return SimulatedResponse(status, "application/json", [data], len(data))


def error_response(
    status: int, message: str, code: str | None = None, kind: str = "invalid_request_error"
) -> SimulatedResponse:
    """OpenAI's error object."""
    return json_response({"error": {"message": message, "type": kind, "param": None, "code": code}}, status)


def sized_response(size: int, content_type: str = "application/octet-stream") -> SimulatedResponse:
    """Return a body of that many bytes, made while it is sent."""
    return SimulatedResponse(200, content_type, _bytes(size), size)


def _bytes(size: int) -> Iterator[bytes]:
    whole, rest = divmod(size, len(_BLOCK))
    yield from itertools.repeat(_BLOCK, whole)
    if rest:
        yield _BLOCK[:rest]


class OpenAIResponses:
    """The endpoint families, and what was uploaded or created in this run."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._files: dict[str, tuple[dict[str, Any], Upload]] = {}
        self._objects: dict[str, dict[str, Any]] = {}
        self._routes: list[tuple[str, str, Callable[[Request, Upload, Plan], SimulatedResponse]]] = [
            ("POST", "/v1/chat/completions", self._chat),
            ("POST", "/v1/completions", self._completion),
            ("POST", "/v1/responses", self._response),
            ("POST", "/v1/embeddings", self._embeddings),
            ("POST", "/v1/moderations", self._moderation),
            ("POST", "/v1/audio/speech", self._speech),
            ("POST", "/v1/audio/*", self._transcription),
            ("POST", "/v1/images/*", self._image),
            ("GET", "/v1/models", self._model_list),
            ("GET", "/v1/models/*", self._model),
            ("POST", "/v1/files", self._file_upload),
            ("GET", "/v1/files", self._file_list),
            ("GET", "/v1/files/*/content", self._file_content),
            ("GET", "/v1/files/*", self._file),
            ("POST", "/v1/*", self._object_create),
            ("GET", "/v1/*", self._object_get),
        ]

    def respond(self, request: Request, upload: Upload, plan: Plan) -> SimulatedResponse:
        """Return the usual response to a request."""
        method = "GET" if request.method == "HEAD" else request.method
        path = request.path.rstrip("/")
        for wanted, pattern, view in self._routes:
            if method == wanted and fnmatch.fnmatchcase(path, pattern):
                return view(request, upload, plan)
        return error_response(404, f"Unknown request URL: {request.method} {request.path}.", "unknown_url")

    def _id(self, prefix: str) -> str:
        return f"{prefix}sim{next(self._ids):08d}"

    # -- text ------------------------------------------------------------------------------------------------------

    def _chat(self, request: Request, upload: Upload, plan: Plan) -> SimulatedResponse:
        asked = upload.json()
        if asked is None or not isinstance(asked.get("messages"), list):
            return error_response(400, "Missing required parameter: 'messages'.", "missing_required_parameter")
        counts = Counts.of(asked.get("messages"), asked, plan)
        frame = {"id": self._id("chatcmpl-"), "created": int(time.time()), "model": str(asked.get("model", "gpt-4o"))}
        calls = [tool_call(asked)] if plan.tool else []
        if asked.get("stream"):
            with_usage = bool((asked.get("stream_options") or {}).get("include_usage"))
            return _event_stream(chat_events(frame, counts, calls, with_usage=with_usage, done=plan.done))
        message: dict[str, Any] = {"role": "assistant", "content": counts.text, "refusal": None, "annotations": []}
        if calls:
            message |= {"content": None, "tool_calls": calls}
        reason = "tool_calls" if calls else counts.finish_reason
        choices = [
            {"index": index, "message": message, "logprobs": None, "finish_reason": reason}
            for index in range(int(asked.get("n") or 1))
        ]
        return json_response(
            {**frame, "object": "chat.completion", "choices": choices, "usage": counts.chat_usage()}
            | {"service_tier": "default", "system_fingerprint": "fp_simulated"}
        )

    def _completion(self, request: Request, upload: Upload, plan: Plan) -> SimulatedResponse:
        asked = upload.json()
        if asked is None:
            return error_response(400, "We could not parse the JSON body of your request.")
        counts = Counts.of(asked.get("prompt"), asked, plan)
        frame = {"id": self._id("cmpl-"), "created": int(time.time()), "model": str(asked.get("model", "gpt-4o"))}
        if asked.get("stream"):
            with_usage = bool((asked.get("stream_options") or {}).get("include_usage"))
            return _event_stream(completion_events(frame, counts, with_usage=with_usage, done=plan.done))
        choice = {"index": 0, "text": counts.text, "logprobs": None, "finish_reason": counts.finish_reason}
        return json_response({**frame, "object": "text_completion", "choices": [choice], "usage": counts.chat_usage()})

    def _response(self, request: Request, upload: Upload, plan: Plan) -> SimulatedResponse:
        asked = upload.json()
        if asked is None:
            return error_response(400, "We could not parse the JSON body of your request.")
        counts = Counts.of([asked.get("instructions"), asked.get("input")], asked, plan)
        frame = {
            "id": self._id("resp_"),
            "created_at": int(time.time()),
            "model": str(asked.get("model", "gpt-4o")),
            "instructions": asked.get("instructions"),
        }
        if asked.get("stream"):
            return _event_stream(response_events(frame, counts, self._id("msg_")))
        whole = response_object(frame, counts, self._id("msg_"))
        self._keep(whole["id"], whole)
        return json_response(whole)

    # -- other families --------------------------------------------------------------------------------------------

    def _embeddings(self, request: Request, upload: Upload, plan: Plan) -> SimulatedResponse:
        asked = upload.json()
        if asked is None or "input" not in asked:
            return error_response(400, "Missing required parameter: 'input'.", "missing_required_parameter")
        inputs = asked["input"] if isinstance(asked["input"], list) else [asked["input"]]
        if inputs and isinstance(inputs[0], int):
            inputs = [inputs]
        size = int(asked.get("dimensions") or 16)
        as_text = asked.get("encoding_format") == "base64"
        data = [
            {"object": "embedding", "index": index, "embedding": _vector(repr(item), size, as_text)}
            for index, item in enumerate(inputs)
        ]
        prompt = (plan.usage or {}).get("prompt", words_of(asked["input"]))
        usage = {"prompt_tokens": prompt, "total_tokens": prompt}
        model = asked.get("model", "text-embedding-3-small")
        return json_response({"object": "list", "data": data, "model": model, "usage": usage})

    def _moderation(self, request: Request, upload: Upload, plan: Plan) -> SimulatedResponse:
        names = ("harassment", "hate", "illicit", "self-harm", "sexual", "violence")
        result = {
            "flagged": False,
            "categories": dict.fromkeys(names, False),
            "category_scores": dict.fromkeys(names, 0.0001),
            "category_applied_input_types": {name: ["text"] for name in names},
        }
        return json_response({"id": self._id("modr-"), "model": "omni-moderation-latest", "results": [result]})

    def _speech(self, request: Request, upload: Upload, plan: Plan) -> SimulatedResponse:
        return sized_response(SPEECH_BYTES, "audio/mpeg")

    def _transcription(self, request: Request, upload: Upload, plan: Plan) -> SimulatedResponse:
        file = upload.part("file")
        if file is None:
            return error_response(400, "Missing required parameter: 'file'.", "missing_required_parameter")
        text = f"A recording of {file.size} bytes with SHA-256 {file.sha256}."
        if upload.text("response_format") == "text":
            data = text.encode() + b"\n"
            return SimulatedResponse(200, "text/plain; charset=utf-8", [data], len(data))
        usage = {"type": "duration", "seconds": max(1, file.size // 16_000)}
        return json_response({"text": text, "usage": usage})

    def _image(self, request: Request, upload: Upload, plan: Plan) -> SimulatedResponse:
        image = {"b64_json": base64.b64encode(_PNG).decode(), "revised_prompt": None}
        usage = {"input_tokens": 8, "output_tokens": 16, "total_tokens": 24}
        usage_details = {"input_tokens_details": {"text_tokens": 8, "image_tokens": 0}}
        return json_response({"created": int(time.time()), "data": [image], "usage": usage | usage_details})

    def _model_list(self, request: Request, upload: Upload, plan: Plan) -> SimulatedResponse:
        return json_response({"object": "list", "data": [_model_object(name) for name in MODELS]})

    def _model(self, request: Request, upload: Upload, plan: Plan) -> SimulatedResponse:
        name = request.path.removeprefix("/v1/models/")
        if name not in MODELS:
            return error_response(404, f"The model '{name}' does not exist", "model_not_found")
        return json_response(_model_object(name))

    # -- files -----------------------------------------------------------------------------------------------------

    def _file_upload(self, request: Request, upload: Upload, plan: Plan) -> SimulatedResponse:
        file = upload.part("file")
        if file is None:
            return error_response(400, "Missing required parameter: 'file'.", "missing_required_parameter")
        about: dict[str, Any] = {
            "id": self._id("file-"),
            "object": "file",
            "bytes": file.size,
            "created_at": int(time.time()),
            "filename": file.filename or "file",
            "purpose": upload.text("purpose") or "user_data",
            "status": "processed",
        }
        self._files[about["id"]] = (about, upload.keep())
        return json_response(about)

    def _file_list(self, request: Request, upload: Upload, plan: Plan) -> SimulatedResponse:
        data = [about for about, _ in self._files.values()]
        return json_response({"object": "list", "data": data, "has_more": False})

    def _file(self, request: Request, upload: Upload, plan: Plan) -> SimulatedResponse:
        found = self._files.get(request.path.split("/")[3])
        return json_response(found[0]) if found else error_response(404, "No such File object", "not_found")

    def _file_content(self, request: Request, upload: Upload, plan: Plan) -> SimulatedResponse:
        found = self._files.get(request.path.split("/")[3])
        if found is None:
            return error_response(404, "No such File object", "not_found")
        file = found[1].part("file")
        assert file is not None
        return SimulatedResponse(200, "application/octet-stream", found[1].content(file), file.size)

    # -- everything else: objects that can be made, listed and read ----------------------------------------------

    def _object_create(self, request: Request, upload: Upload, plan: Plan) -> SimulatedResponse:
        family = request.path.removeprefix("/v1/").rstrip("/")
        made = {"id": self._id("obj_"), "object": family, "created_at": int(time.time()), "status": "completed"}
        about: dict[str, Any] = {**(upload.json() or {}), **made}
        self._keep(about["id"], about)
        return json_response(about)

    def _object_get(self, request: Request, upload: Upload, plan: Plan) -> SimulatedResponse:
        family, _, name = request.path.removeprefix("/v1/").rstrip("/").rpartition("/")
        if name in self._objects:
            return json_response(self._objects[name])
        if family and "sim" in name:
            return error_response(404, f"No such object: {name}", "not_found")
        found = [
            about for about in self._objects.values() if about["object"] == (f"{family}/{name}" if family else name)
        ]
        return json_response({"object": "list", "data": found, "has_more": False})

    def _keep(self, name: str, about: dict[str, Any]) -> None:
        self._objects[name] = about
        if len(self._objects) > _OBJECTS_KEPT:
            del self._objects[next(iter(self._objects))]


def _event_stream(events: Iterable[bytes]) -> SimulatedResponse:
    return SimulatedResponse(200, "text/event-stream; charset=utf-8", events, is_stream=True)


def _model_object(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "simulator"}


def _vector(text: str, size: int, as_text: bool) -> list[float] | str:
    """Return a unit vector that the text alone decides."""
    seed = hashlib.sha256(text.encode()).digest()
    raw = [math.sin(seed[index % 32] + index) for index in range(size)]
    norm = math.sqrt(sum(value * value for value in raw)) or 1.0
    vector = [value / norm for value in raw]
    return base64.b64encode(struct.pack(f"<{size}f", *vector)).decode() if as_text else vector


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


_PNG = (  # one grey pixel
    b"\x89PNG\r\n\x1a\n"
    + _png_chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    + _png_chunk(b"IDAT", zlib.compress(b"\x00\x80"))
    + _png_chunk(b"IEND", b"")
)
