"""A worker's events as lines of a file, beside whatever bus there is (docs/events.md, "File of events").

Meant for people and log shippers: names in snake case, bodies as text, streams merged. Several workers share one file.
"""

import base64
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from llm_proxy.events.bodies import (
    BINARY,
    EMPTY,
    JSON,
    MULTIPART,
    STREAM,
    TEXT,
    Content,
    request_content,
    response_content,
)
from llm_proxy.events.event import Event
from llm_proxy.formats.streams.base import as_dict
from llm_proxy.runtime.append_file import AppendFile
from llm_proxy.runtime.clock import rfc3339
from llm_proxy.runtime.line_writer import LineWriter

log = logging.getLogger(__name__)

BINARY_TEXT = "[binary or undecodable data]"
_MODE = 0o600
_MOST_LINES = 100_000
_WIRE_NAMES = {  # of the event on the bus, of values that a line has as they are
    "LogID": "log_id", "RequestID": "request_id", "Method": "method", "Path": "path", "Status": "status",
    "Duration": "duration", "schema_version": "schema_version", "EventID": "event_id", "Timestamp": "timestamp",
    "ProjectID": "project_id", "TokenID": "token_id", "Provider": "provider", "Outcome": "outcome", "Error": "error",
    "RequestTruncated": "request_truncated", "ResponseTruncated": "response_truncated",
    "RequestContentType": "request_content_type", "TimeToFirstByte": "time_to_first_byte",
    "RequestBytes": "request_bytes", "ResponseBytes": "response_bytes",
}  # fmt: skip
_BINARY_TYPES = ("audio/", "image/", "video/", "application/octet-stream")


def to_line(event: Event, *, keep_binary: bool = False) -> bytes:
    """Return the event as one JSON line with its newline. `keep_binary`: binary bodies as base64 instead of a note."""
    request, response = request_content(event), response_content(event)
    body, usage = _response_text(event, response, keep_binary)
    found: dict[str, Any] = {
        "log_id": event.log_id,
        "request_id": event.request_id,
        "method": event.method,
        "path": event.path,
        "status": event.status,
        "duration": event.duration_ns,
        "response_headers": {_snake(name): values for name, values in event.response_headers.items()},
        "request_body": _text_of(request, keep_binary),
        "response_body": body,
        "response_body_binary": response.kind == BINARY or _is_uncaptured_binary(event),
        "token_usage": _token_usage(usage, event.usage),
        "schema_version": event.schema_version,
        "event_id": event.event_id,
        "timestamp": rfc3339(event.started_at) if event.started_at else None,
        "project_id": event.project_id,
        "token_id": event.token_id,
        "provider": event.provider,
        "outcome": event.outcome,
        "request_truncated": event.request_truncated,
        "response_truncated": event.response_truncated,
        "request_content_type": event.request_content_type,
        "request_content_encoding": event.request_content_encoding,
        "time_to_first_byte": event.time_to_first_byte_ns,
        "request_bytes": event.request_bytes,
        "response_bytes": event.response_bytes,
    }
    if event.error is not None:
        found["error"] = event.error
    return orjson.dumps(found, option=orjson.OPT_APPEND_NEWLINE)


def _token_usage(reported: dict[str, Any] | None, counted: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return what the provider reported, and in the proxy's four names what was counted."""
    if reported is None or not counted:
        return counted if reported is None else reported
    main = ("prompt_tokens", "completion_tokens")
    return reported | {name: count for name, count in counted.items() if count or name in main or name in reported}


def _response_text(event: Event, content: Content, keep_binary: bool) -> tuple[str | None, dict[str, Any] | None]:
    """Return the body's text, and the usage that was taken out of it."""
    if _is_uncaptured_binary(event):
        return BINARY_TEXT, None
    if (
        content.kind in (JSON, STREAM)
        and isinstance(content.value, dict)
        and isinstance(content.value.get("usage"), dict)
    ):
        rest = {name: value for name, value in content.value.items() if name != "usage"}
        return orjson.dumps(rest).decode(), as_dict(content.value["usage"])
    return _text_of(content, keep_binary), None


def _is_uncaptured_binary(event: Event) -> bool:
    return event.response_body is None and event.header("Content-Type").lower().startswith(_BINARY_TYPES)


def _text_of(content: Content, keep_binary: bool) -> str | None:
    if content.kind == EMPTY:
        return None
    if content.kind in (JSON, STREAM):
        return orjson.dumps(content.value).decode()
    if content.kind == TEXT:
        return content.text
    if keep_binary and content.kind in (BINARY, MULTIPART):
        return base64.b64encode(content.raw).decode()
    return BINARY_TEXT


def _snake(name: str) -> str:
    return name.lower().replace("-", "_")


def from_line(line: bytes) -> Event:
    """Return the event of a line that `to_line` made, for replaying it. Raises ValueError when it is none.

    Bodies are what the line has: text and JSON, streams already merged, so the response's coding no longer applies.
    """
    found = orjson.loads(line)
    if not isinstance(found, dict) or "request_id" not in found or "path" not in found:
        raise ValueError("a line of an event file")
    headers = {
        "-".join(part.capitalize() for part in name.split("_")): values
        for name, values in as_dict(found.get("response_headers")).items()
    }
    headers.pop("Content-Encoding", None)
    body = found.get("response_body")
    is_json = isinstance(body, str) and body.startswith(("{", "["))
    if is_json:
        headers["Content-Type"] = ["application/json"]
    usage = found.get("token_usage")
    if is_json and isinstance(usage, dict):
        body = _with_usage(str(body), usage)
    wire = {name: found.get(own) for name, own in _WIRE_NAMES.items()}
    wire |= {"ResponseHeaders": headers, "RequestBody": _encoded(found.get("request_body"))}
    wire["ResponseBody"] = None if found.get("response_body_binary") is True else _encoded(body)
    wire["Usage"] = usage if not is_json else None
    return Event.from_wire(orjson.dumps(wire))


def _with_usage(body: str, usage: dict[str, Any]) -> str:
    with contextlib.suppress(ValueError):
        parsed = orjson.loads(body)
        if isinstance(parsed, dict):
            return orjson.dumps({**parsed, "usage": usage}).decode()
    return body


def _encoded(text: object) -> str | None:
    return base64.b64encode(text.encode()).decode() if isinstance(text, str) else None


class FileSink:
    """Lines of the file of FILE_EVENT_LOG; a fault costs lines and is counted, nothing else.

    Once started, a thread writes: neither a pipe whose reader stands still nor a locked file holds up a request.

    Args:
        most_bytes: Bound of the lines that wait for the thread.
        count_lost: Gets the number of lines that could not be written.
    """

    def __init__(
        self,
        path: Path,
        *,
        keep_binary: bool = False,
        most_bytes: int = 64 * 1024 * 1024,
        count_lost: Callable[[int], None],
    ) -> None:
        self._file = AppendFile(path, mode=_MODE)
        self._lines = LineWriter(
            self._append, pause_s=0.0, most_lines=_MOST_LINES, most_bytes=most_bytes, lost=self._lose
        )
        self._keep_binary, self._count_lost = keep_binary, count_lost
        self._is_failing = False

    def start(self) -> None:
        """Have a thread write from now on; in a worker, after the fork."""
        self._lines.start()

    def write(self, event: Event) -> None:
        """Put one line on its way. Never raises."""
        try:
            line = to_line(event, keep_binary=self._keep_binary)
        except Exception as exc:
            self._lose(1, exc)
        else:
            self._lines.put(line)

    def _append(self, lines: bytes) -> None:
        self._file.write(lines)
        self._is_failing = False

    def _lose(self, count: int, error: Exception | None) -> None:
        self._count_lost(count)
        if not self._is_failing:
            self._is_failing = True
            reason = "it takes lines too slowly" if error is None else getattr(error, "strerror", None) or error
            log.error("events: FILE_EVENT_LOG cannot be written: %s", reason)

    def reopen(self) -> None:
        """SIGUSR1: open the file that has the name now."""
        with contextlib.suppress(OSError):  # the next line tries again, and counts
            self._file.reopen()

    def close(self) -> None:
        """Write what is on its way, within a bound of time, and close the file."""
        self._lines.stop()
        if not self._lines.is_stuck:
            self._file.close()
