"""Back end `lunary`: runs of Lunary's ingestion API (docs/events.md, "Lunary").

Built from its published API: `POST /v1/runs/ingest` takes `{"events": […]}`, a start and an end (or error) event a run,
and answers with a result for each.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar

import orjson

from llm_proxy.dispatcher.backends.base import DELIVERED, Result, Verdict
from llm_proxy.dispatcher.backends.http import HttpBackend, Reply
from llm_proxy.dispatcher.payload import Payload, to_json
from llm_proxy.formats.streams.base import as_dict, as_list
from llm_proxy.runtime.clock import rfc3339

MOST_BYTES = 4 * 1024 * 1024  # a call
_LEAST_RUN = timedelta(milliseconds=1)  # the server sorts by time


class LunaryBackend(HttpBackend):
    """Posts runs in batches."""

    default_endpoint: ClassVar[str] = "https://api.lunary.ai/v1/runs/ingest"

    def send(self, payloads: Sequence[Payload]) -> list[Result]:
        """In calls of at most a batch and 4 MiB; after one that fails the rest is not tried, so that order stays."""
        results: list[Result] = []
        for runs in self._calls(payloads):
            if results and results[-1].verdict in (Verdict.TRANSIENT, Verdict.CONFIGURATION):
                last = results[-1]
                results += [Result(last.verdict, last.error, last.retry_after_s, is_tried=False)] * len(runs)
                continue
            results += self._call(runs)
            self._config.progress()
        return results

    def _calls(self, payloads: Sequence[Payload]) -> Iterator[list[tuple[Payload, bytes]]]:
        runs: list[tuple[Payload, bytes]] = []
        size = 0
        for payload in payloads:
            text = b",".join(to_json(event) for event in run_events(payload))
            if runs and (len(runs) >= self._config.batch_size or size + len(text) > MOST_BYTES):
                yield runs
                runs, size = [], 0
            runs.append((payload, text))
            size += len(text) + 1
        if runs:
            yield runs

    def _call(self, runs: list[tuple[Payload, bytes]]) -> list[Result]:
        body = b'{"events":[' + b",".join(text for _, text in runs) + b"]}"
        reply = self._client.post(self._config.endpoint, body)
        if not reply.is_success:
            return [reply.result(is_whole=True)] * len(runs)
        refused = _refused_runs(reply)
        return [
            Result(Verdict.TRANSIENT, "refused by the service") if payload.run_id in refused else DELIVERED
            for payload, _ in runs
        ]


def _refused_runs(reply: Reply) -> set[str]:
    """Ids that the response says failed; a run that is there already has been delivered before."""
    try:
        results = as_list(as_dict(orjson.loads(reply.body)).get("results"))
    except ValueError:
        return set()
    refused = set()
    for entry in results:
        result = as_dict(entry)
        if result.get("success") is False and "already exists" not in str(result.get("error", "")).lower():
            refused.add(str(result.get("id")))
    return refused


def run_events(payload: Payload) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the start and the end, or error, of one run."""
    common = {"type": payload.kind, "runId": payload.run_id}
    metadata = _flat(payload.metadata)
    start: dict[str, Any] = {
        **common,
        "event": "start",
        "name": payload.name,
        "timestamp": rfc3339(payload.started_at),
        "input": _input(payload),
        "userId": payload.user_id,
        "extra": _extra(payload) or None,
        "metadata": metadata,
    }
    ended_at = rfc3339(_ended_at(payload))
    if payload.is_error:
        end: dict[str, Any] = {**common, "event": "error", "timestamp": ended_at, "error": {"message": payload.error}}
    else:
        end = {
            **common,
            "event": "end",
            "name": payload.name,
            "timestamp": ended_at,
            "output": _output(payload),
            "tokensUsage": _usage(payload),
            "metadata": metadata,
        }
    return _without_none(start), _without_none(end)


def _without_none(event: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if value is not None}


def _ended_at(payload: Payload) -> datetime:
    return max(payload.ended_at, payload.started_at + _LEAST_RUN)


def _input(payload: Payload) -> Any:
    for name in ("messages", "prompt", "input"):
        if payload.request.get(name) is not None:
            return payload.request[name]
    return payload.input if payload.has_input else None


def _output(payload: Payload) -> Any:
    messages = [as_dict(choice).get("message") for choice in as_list(payload.response.get("choices"))]
    messages = [message for message in messages if isinstance(message, dict)]
    if messages:
        return messages[0] if len(messages) == 1 else messages
    return payload.output if payload.has_output else None


def _extra(payload: Payload) -> dict[str, Any]:
    tools = {name: payload.request[name] for name in ("tools", "functions") if payload.request.get(name)}
    return {**payload.extra, **tools}


def _usage(payload: Payload) -> dict[str, int] | None:
    usage = payload.usage
    if usage is None:
        return None
    found = {"prompt": usage.prompt_tokens, "completion": usage.completion_tokens}
    return {**found, "promptCached": usage.cached_tokens} if usage.cached_tokens else found


def _flat(metadata: dict[str, Any]) -> dict[str, Any]:
    """Scalars and lists of them only, others are discarded there; the server makes keys camel case."""
    flat: dict[str, Any] = {}
    for name, value in metadata.items():
        if not isinstance(value, dict):
            flat[name] = value
            continue
        for key, item in value.items():
            text = ", ".join(map(str, item)) if isinstance(item, list) else item
            flat[f"{name}_{key.lower().replace('-', '_')}"] = text
    return flat
