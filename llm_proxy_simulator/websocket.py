"""Responses and Realtime over WebSocket, with scripted faults; written without a look at the proxy's reader.

A turn departs from the usual by a `simulate` member of the client's message: a mapping of `words` (how many), `error`
(a status in place of the response), `cut` (end the connection after so many messages), `close` (a close frame with that
code), `silence` (say nothing more), `interval` (seconds between messages), `fragments` (of each message),
`begin` (Realtime: begin so many responses unasked), `transcribe` (Realtime: tell so many transcriptions),
`garbage` (a frame with reserved bits).
"""

import base64
import hashlib
import itertools
import json
import os
import struct
import time
from collections.abc import Iterator
from typing import Any

import gevent

from llm_proxy_simulator.sending import Fault
from llm_proxy_simulator.wire import Request, Wire

PATHS = ("/v1/responses", "/v1/realtime")
_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10


def wants_websocket(request: Request) -> bool:
    """Return whether the request is a handshake on a path that has WebSockets."""
    return (request.value("upgrade") or "").lower() == "websocket" and request.path.rstrip("/") in PATHS


class WebSocket:
    """One connection after its handshake.

    Args:
        extension: Agree to this extension, although it was not asked for.
    """

    def __init__(self, wire: Wire, request: Request, *, extension: str | None = None) -> None:
        self._wire, self._request, self._extension = wire, request, extension
        self._is_realtime = request.path.rstrip("/").endswith("realtime")
        self._ids = itertools.count(1)
        self.turns: list[dict[str, Any]] = []  # the messages that asked for a response
        self.closed_with: tuple[int, str] | None = None  # by the client

    def serve(self) -> None:
        """Answer the handshake, then messages until one side closes. Raises Fault where a turn asks for it."""
        self._wire.send(self._head())
        if self._is_realtime:
            model = self._request.target.partition("model=")[2].partition("&")[0] or "gpt-realtime"
            session = {"id": "sess_sim", "object": "session", "model": model}
            transcription = {"input": {"transcription": {"model": "gpt-4o-transcribe"}}}
            self._say({"type": "session.created", "session": session | {"audio": transcription}})
        for opcode, payload in self._messages():
            if opcode == _TEXT and payload.startswith(b"{"):
                self._take(json.loads(payload))
            else:
                self._send(opcode, payload)  # an echo

    def _head(self) -> bytes:
        key = (self._request.value("sec-websocket-key") or "").encode()
        accept = base64.b64encode(hashlib.sha1(key + _GUID.encode()).digest()).decode()  # noqa: S324 (RFC 6455 §4.2.2)
        lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
        lines += [f"Sec-WebSocket-Accept: {accept}"]
        protocols = [name.strip() for name in (self._request.value("sec-websocket-protocol") or "").split(",")]
        if "realtime" in protocols:
            lines.append("Sec-WebSocket-Protocol: realtime")
        if self._extension is not None:
            lines.append(f"Sec-WebSocket-Extensions: {self._extension}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    # -- messages -----------------------------------------------------------------------------------------------------

    def _take(self, message: dict[str, Any]) -> None:
        simulate = message.get("simulate") or {}
        if message.get("type") == "response.create":
            self.turns.append(message)
            self._respond(message, simulate)
        elif message.get("type") == "session.update":
            self._say({"type": "session.updated", "session": {"model": "gpt-realtime"} | message.get("session", {})})
        else:
            for _ in range(int(simulate.get("begin", 0))):
                self.turns.append({"type": "begun"})
                self._respond({}, simulate)
            for number in range(int(simulate.get("transcribe", 0))):
                usage = {"type": "tokens", "input_tokens": 14, "output_tokens": 5, "total_tokens": 19}
                event = {"type": "conversation.item.input_audio_transcription.completed", "item_id": f"item_{number}"}
                self._say(event | {"content_index": 0, "transcript": "What is the weather?", "usage": usage})

    def _respond(self, message: dict[str, Any], simulate: dict[str, Any]) -> None:
        if "error" in simulate:
            status = int(simulate["error"])
            error = {"type": "simulated_error", "code": "simulated", "message": f"Simulated {status}."}
            about = error | {"event_id": message.get("event_id")} if self._is_realtime else error
            self._say({"type": "error", "status": status, "error": about})
            return
        pause = float(simulate.get("interval", 0))
        for number, event in enumerate(self._events(message, int(simulate.get("words", 4)))):
            if simulate.get("cut") == number:
                raise Fault(is_reset=False)
            if simulate.get("silence") == number:
                return
            if "close" in simulate and number == 2:
                self._send(_CLOSE, struct.pack(">H", int(simulate["close"])) + b"simulated")
                raise Fault(is_reset=False)
            if simulate.get("garbage") and number == 2:
                self._wire.send(b"\xf1\x03abc")
                continue
            self._say(event, int(simulate.get("fragments", 1)))
            gevent.sleep(pause)

    def _events(self, message: dict[str, Any], words: int) -> Iterator[dict[str, Any]]:
        number = next(self._ids)
        stream = {"stream_id": message["stream_id"]} if "stream_id" in message else {}
        frame: dict[str, Any] = {"id": f"resp_ws{os.getpid()}x{id(self)}x{number}", "object": "response", "output": []}
        if not self._is_realtime:
            frame |= {"model": message.get("model", "gpt-4o"), "created_at": int(time.time())}
            frame |= {"parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
        place = {"response_id": frame["id"]} if self._is_realtime else {}
        where = {"item_id": f"msg_{number}", "output_index": 0, "content_index": 0}
        sequence = itertools.count()

        def event(kind: str, **members: Any) -> dict[str, Any]:
            return {"type": kind, "sequence_number": next(sequence), **stream, **members}

        yield event("response.created", response=frame | {"status": "in_progress"})
        for word in range(words):
            yield event("response.output_text.delta", **place, **where, delta=f"w{word} ", logprobs=[])
        text = "".join(f"w{word} " for word in range(words))
        content = [{"type": "output_text", "text": text, "annotations": []}]
        item = {"id": f"msg_{number}", "type": "message", "role": "assistant", "status": "completed"}
        if not self._is_realtime:
            yield event("response.output_item.done", output_index=0, item=item | {"content": content})
        usage = {"input_tokens": 7, "output_tokens": words, "total_tokens": 7 + words}
        details = "token_details" if self._is_realtime else "tokens_details"
        usage_more = {f"input_{details}": {"cached_tokens": 0}, f"output_{details}": {"reasoning_tokens": 0}}
        final = frame | {"status": "completed", "output": [item | {"content": content}], "usage": usage | usage_more}
        yield event("response.done" if self._is_realtime else "response.completed", response=final)

    # -- frames -------------------------------------------------------------------------------------------------------

    def _messages(self) -> Iterator[tuple[int, bytes]]:
        """Yield whole messages; answer pings and a close."""
        kind, parts = 0, list[bytes]()
        while True:
            first, second = self._wire.read(2)
            size = second & 0x7F
            if size == 126:
                size = struct.unpack(">H", self._wire.read(2))[0]
            elif size == 127:
                size = struct.unpack(">Q", self._wire.read(8))[0]
            mask = self._wire.read(4)
            masked = self._wire.read(size)
            payload = bytes(byte ^ mask[place % 4] for place, byte in enumerate(masked))
            opcode = first & 0x0F
            if opcode == _CLOSE:
                code = struct.unpack(">H", payload[:2])[0] if len(payload) > 1 else 1005
                self.closed_with = (code, payload[2:].decode("utf-8", "replace"))
                self._send(_CLOSE, payload)
                return
            if opcode == _PING:
                self._send(_PONG, payload)
            elif opcode != _PONG:
                kind = opcode or kind
                parts.append(payload)
                if first & 0x80:
                    yield kind, b"".join(parts)
                    parts = []

    def _say(self, event: dict[str, Any], fragments: int = 1) -> None:
        if self._is_realtime:
            event = {"type": event["type"], "event_id": f"event_{next(self._ids)}"} | event
        data = json.dumps(event, separators=(",", ":")).encode()
        size = max(1, -(-len(data) // fragments))
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        for number, piece in enumerate(pieces):
            self._send(_CONTINUATION if number else _TEXT, piece, is_last=number == len(pieces) - 1)

    def _send(self, opcode: int, payload: bytes, *, is_last: bool = True) -> None:
        size, first = len(payload), opcode | (0x80 if is_last else 0)
        if size < 126:
            head = struct.pack(">BB", first, size)
        elif size < 65536:
            head = struct.pack(">BBH", first, 126, size)
        else:
            head = struct.pack(">BBQ", first, 127, size)
        self._wire.send(head + payload)
