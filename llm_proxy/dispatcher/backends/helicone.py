"""Back end `helicone`: Helicone's custom model log, a call an event (docs/events.md, "Helicone").

Built from its published API: `POST /custom/v1/log` with the request, the response and their times.
"""

import json
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar

import gevent
import gevent.pool
import orjson

from llm_proxy.dispatcher.backends.base import DELIVERED, BackendConfig, Result, Verdict
from llm_proxy.dispatcher.backends.http import HttpBackend, Reply
from llm_proxy.dispatcher.payload import Payload, to_json
from llm_proxy.formats.streams.base import as_dict

MOST_BYTES = 10 * 1024 * 1024  # refused there beyond it
_CUT_CHARACTERS = 64 * 1024
_NO_PATH = "custom-model-nopath"
_NOT_TRIED = Result(Verdict.TRANSIENT, "not tried: the service does not answer", is_tried=False)


class HeliconeBackend(HttpBackend):
    """Posts events one by one, several at a time. Each carries its own times and id, so their order does not matter."""

    default_endpoint: ClassVar[str] = "https://api.worker.helicone.ai/custom/v1/log"

    def __init__(self, config: BackendConfig) -> None:
        super().__init__(config, connections=config.concurrency)

    def send(self, payloads: Sequence[Payload]) -> list[Result]:
        """All of them; but when two rounds in a row got no event through, the rest is not tried."""
        pool = gevent.pool.Pool(self._config.concurrency)
        results: list[Result] = [_NOT_TRIED] * len(payloads)
        failed_in_a_row = 0

        def one(place: int) -> None:
            nonlocal failed_in_a_row
            if failed_in_a_row >= 2 * self._config.concurrency:
                return
            results[place] = self._post(payloads[place])
            is_down = results[place].verdict in (Verdict.TRANSIENT, Verdict.CONFIGURATION)
            failed_in_a_row = failed_in_a_row + 1 if is_down else 0
            self._config.progress()

        for place in range(len(payloads)):
            pool.spawn(one, place)
        pool.join()
        return results

    def _post(self, payload: Payload) -> Result:
        reply = self._client.post(self._config.endpoint, body_of(payload))
        if reply.is_success:
            return DELIVERED if not _says_error(reply) else Result(Verdict.TRANSIENT, "the service's store failed")
        found = reply.result(is_whole=False)
        if reply.status == 500:  # its response to malformed logs, and to its own faults
            return Result(Verdict.TRANSIENT, found.error, found.retry_after_s, is_own_fault=True)
        return found


def _says_error(reply: Reply) -> bool:
    """200 with `{"error": …}`: its store failed."""
    try:
        return bool(as_dict(orjson.loads(reply.body)).get("error"))
    except ValueError:
        return False


def body_of(payload: Payload) -> bytes:
    """Return the call's body; cut where the service would refuse its size."""
    body = to_json(log_of(payload))
    if len(body) <= MOST_BYTES:
        return body
    log = log_of(payload)
    log["providerRequest"]["json"] = {"model": payload.name or "", "truncated": True}
    response = log["providerResponse"]
    response.pop("base64", None)
    text = json.dumps(response["json"], ensure_ascii=False)[:_CUT_CHARACTERS]
    response |= {"json": {}, "note": "the response was too long and is cut", "textBody": text}
    return to_json(log)


def log_of(payload: Payload) -> dict[str, Any]:
    """One exchange as Helicone's AsyncLog."""
    response: dict[str, Any] = {
        "status": payload.status,
        "headers": {name: ", ".join(values) for name, values in payload.response_headers.items()},
        **_response_members(payload),
    }
    timing: dict[str, Any] = {"startTime": _instant(payload.started_at), "endTime": _instant(payload.ended_at)}
    if payload.ttfb_ms is not None:
        timing["timeToFirstToken"] = round(payload.ttfb_ms)
    return {
        "providerRequest": {"url": payload.path or _NO_PATH, "json": _request(payload), "meta": _meta(payload)},
        "providerResponse": response,
        "timing": timing,
    }


def _request(payload: Payload) -> dict[str, Any]:
    if isinstance(payload.input, dict):
        return payload.input
    if isinstance(payload.input, list):
        return {"data": payload.input}
    return {"text": payload.input} if payload.has_input and payload.input is not None else {}


def _response_members(payload: Payload) -> dict[str, Any]:
    if isinstance(payload.output, dict):
        return {"json": _with_usage(payload.output, payload)}
    if isinstance(payload.output, list):
        return {"json": {"data": payload.output}}
    found: dict[str, Any] = {
        "json": {},
        "note": "the response is no JSON" if payload.has_output else "no response was kept",
    }
    if payload.output_base64 is not None:
        found["base64"] = payload.output_base64
    elif isinstance(payload.output, str):
        found["textBody"] = payload.output
    return found


def _with_usage(response: dict[str, Any], payload: Payload) -> dict[str, Any]:
    """Return the response with the usage that was counted, where it has none or says otherwise under the same names."""
    if payload.usage is None:
        return response
    counted = {
        "prompt_tokens": payload.usage.prompt_tokens,
        "completion_tokens": payload.usage.completion_tokens,
        "total_tokens": payload.usage.total_tokens,
    }
    if not (reported := response.get("usage")) or not isinstance(reported, dict):
        return {**response, "usage": counted}
    return {**response, "usage": {name: counted.get(name, value) for name, value in reported.items()}}


def _meta(payload: Payload) -> dict[str, str]:
    """Helicone reads it as it reads its header fields: texts only."""
    named = {
        "provider": payload.provider,
        "Helicone-Provider": payload.provider,
        "Helicone-Request-Id": _as_uuid(payload.run_id),
        "Helicone-User-Id": payload.user_id,
        "Helicone-Property-Project": payload.project_id,
        "Helicone-Property-Token": payload.token_id,
        "Helicone-Property-Path": payload.path,
        "Helicone-Property-Outcome": payload.outcome,
        "request_id": payload.request_id,
        **{name: value for name, value in payload.metadata.items() if name not in ("provider", "request_id")},
    }
    return {name: _text(value) for name, value in named.items() if value is not None}


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False) if isinstance(value, bool | dict | list) else str(value)


def _as_uuid(run_id: str) -> str:
    """Return the id itself where it is a UUID, as Helicone wants; else one made from it, the same each time."""
    try:
        return str(uuid.UUID(run_id))
    except ValueError:
        return str(uuid.uuid5(uuid.NAMESPACE_OID, run_id))


def _instant(at: datetime) -> dict[str, int]:
    """Whole seconds and the milliseconds beyond them, rounded down so that order stays."""
    milliseconds = int(at.timestamp() * 1000)
    return {"seconds": milliseconds // 1000, "milliseconds": milliseconds % 1000}
