"""An exchange as the observability services want to see it (docs/events.md, "What is delivered")."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson

from llm_proxy.formats.usage import Usage
from llm_proxy.runtime.clock import rfc3339


@dataclass(slots=True, kw_only=True)
class Payload:
    """One exchange. `input` and `output` are JSON values; `has_output` tells null from nothing.

    `request` and `answer` are the bodies where they are JSON objects, else empty: back ends take parts out of them.
    """

    run_id: str
    log_id: int
    kind: str = "llm"
    name: str | None = None
    started_at: datetime
    ended_at: datetime
    ttfb_ms: float | None = None
    input: Any = None
    output: Any = None
    input_base64: str | None = None
    output_base64: str | None = None
    has_input: bool = False
    has_output: bool = False
    request: dict[str, Any] = field(default_factory=dict)
    response: dict[str, Any] = field(default_factory=dict)
    user_id: str | None = None
    usage: Usage | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    method: str = ""
    path: str = ""
    status: int = 0
    outcome: str | None = None
    provider: str = "openai"
    project_id: str | None = None
    token_id: str | None = None
    request_id: str = ""
    response_headers: dict[str, list[str]] = field(default_factory=dict)
    is_error: bool = False
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the documented keys in their order; empty ones are left out, `log_id` never."""
        found: dict[str, Any] = {
            "type": self.kind,
            "event": "start",
            "runId": self.run_id,
            "name": self.name,
            "timestamp": rfc3339(self.started_at),
        }
        if self.has_input:
            found["input"] = self.input
        found["input_base64"] = self.input_base64
        if self.has_output:
            found["output"] = self.output
        found |= {
            "output_base64": self.output_base64,
            "userId": self.user_id,
            "tokensUsage": tokens_usage(self.usage),
            "extra": self.extra or None,
            "metadata": self.metadata or None,
        }
        kept = {name: value for name, value in found.items() if value is not None or name in ("input", "output")}
        return {**kept, "log_id": self.log_id}


def tokens_usage(usage: Usage | None) -> dict[str, int] | None:
    """`{completion, prompt}`; None when nothing is known."""
    if usage is None:
        return None
    return {"completion": usage.completion_tokens, "prompt": usage.prompt_tokens}


def to_json(value: Any) -> bytes:
    """Compact JSON of what was read from JSON; nesting beyond the writer's bound becomes a note (never raises)."""
    try:
        return orjson.dumps(value)
    except (TypeError, ValueError, RecursionError):
        import json

        try:
            return json.dumps(value, separators=(",", ":"), default=str).encode("utf-8", "replace")
        except (TypeError, ValueError, RecursionError):
            return b'"<undeliverable value omitted>"'
