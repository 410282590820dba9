"""One audited action and its stored forms: a line of the file, a row of the table."""

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import orjson

from llm_proxy.redaction import REDACTOR, Redactor
from llm_proxy.runtime.clock import rfc3339, utc_now

OUTCOMES = ("success", "failure", "denied", "error")
METADATA_BYTES = 16 * 1024
REFUSAL_CHARS = 256
_SHARED = ("action", "actor", "project_id", "request_id", "correlation_id", "client_ip")
_CHOSEN = ("endpoint", "user_agent", "referer")
_FIRST_CLASS = {"method": "http_method", "path": "endpoint", "user_agent": "user_agent", "token_id": "token_id"}
_WIDTHS = {  # characters, by column
    "id": 36,
    "action": 64,
    "actor": 255,
    "project_id": 36,
    "request_id": 128,
    "correlation_id": 128,
    "client_ip": 45,
    "method": 16,
    "path": 16_000,  # MySQL's TEXT takes 65,535 bytes, a character takes up to 4
    "user_agent": 16_000,
    "outcome": 16,
    "reason": 16_000,
    "token_id": 36,
}
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # PostgreSQL takes no NUL, and no database takes half a pair


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """An action: its actor, what was done, with which outcome (one of `OUTCOMES`). `details` are JSON values."""

    action: str
    actor: str
    outcome: str
    project_id: str | None = None
    request_id: str | None = None
    correlation_id: str | None = None
    client_ip: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    timestamp: datetime = field(default_factory=utc_now)

    def redacted(self, redactor: Redactor = REDACTOR) -> "AuditEvent":
        """Return the event as it may be stored: secrets hidden, queries cut off addresses."""
        details = {key: value for key, value in self.details.items() if value is not None}
        for name in ("endpoint", "referer"):
            if isinstance(details.get(name), str):
                details[name] = re.split(r"[?#]", details[name], maxsplit=1)[0]

        def safe(value: str | None) -> str | None:
            return None if value is None else redactor.text(_storable(value))

        return replace(
            self,
            project_id=safe(self.project_id),
            request_id=safe(self.request_id),
            correlation_id=safe(self.correlation_id),
            client_ip=safe(self.client_ip),
            details=_storable_value(redactor.value(details)),
        )

    def bounded(self) -> "AuditEvent":
        """Return the event with the texts that a refused client has chosen cut, so that refusals fill no disk."""
        cut = {name: value[:REFUSAL_CHARS] if name in _CHOSEN else value for name, value in self.details.items()}
        return replace(self, details=cut)

    def line(self) -> bytes:
        """Return a line of the audit file, its end included; empty members are left out."""
        members = {
            "timestamp": rfc3339(self.timestamp),
            **self._members(),
            "result": self.outcome,
            "details": dict(self.details),
        }
        return orjson.dumps({name: value for name, value in members.items() if value}, default=str) + b"\n"

    def _members(self) -> dict[str, Any]:
        """Return what lines and rows call by the same names."""
        return {name: getattr(self, name) for name in _SHARED}

    def row(self) -> dict[str, Any]:
        """Column → value, each cut to its column, so that no row is ever refused for its length."""
        details = self.details
        values: dict[str, Any] = {
            "id": self.id,
            **self._members(),
            "outcome": self.outcome,
            "reason": details.get("error") or details.get("reason"),
            **{column: details.get(name) for column, name in _FIRST_CLASS.items()},
        }
        cut = {name: _cut(value, _WIDTHS[name]) for name, value in values.items()}
        return {**cut, "timestamp": self.timestamp, "metadata": _metadata(details) if details else None}


def _metadata(details: Mapping[str, Any]) -> str:
    text = json.dumps(details, ensure_ascii=False, separators=(",", ":"), default=str)
    if len(text.encode()) <= METADATA_BYTES:
        return text
    kept: dict[str, Any] = {"truncated": True}
    for name in (*_FIRST_CLASS.values(), "error", "reason"):
        if details.get(name) is not None:
            kept[name] = _cut(details[name], 1024)
    return json.dumps(kept, ensure_ascii=False, separators=(",", ":"))


def _cut(value: Any, width: int) -> str | None:
    if value is None or value == "":
        return None
    return (value if isinstance(value, str) else str(value))[:width]


def _storable(text: str) -> str:
    return _UNSTORABLE.sub("\ufffd", text)


def _storable_value(value: Any) -> Any:
    if isinstance(value, str):
        return _storable(value)
    if isinstance(value, dict):
        return {_storable(str(key)): _storable_value(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_storable_value(item) for item in value]
    return value
