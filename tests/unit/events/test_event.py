"""events.event: the form on the wire."""

import base64
from datetime import UTC, datetime

import orjson
import pytest

from llm_proxy.events.event import MAX_WIRE_BYTES, TAIL_BYTES, Event, number
from llm_proxy.runtime.ids import uuid7

REFERENCE = [
    "LogID",
    "RequestID",
    "Method",
    "Path",
    "Status",
    "Duration",
    "ResponseHeaders",
    "RequestBody",
    "ResponseBody",
]


def event(**more: object) -> Event:
    """A usual event."""
    facts: dict[str, object] = {
        "request_id": "r-1",
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 200,
        "duration_ns": 1_500_000,
        "response_headers": {"Content-Type": ["application/json"]},
        "request_body": b'{"model":"m"}',
        "response_body": b"{}",
        "event_id": uuid7(),
        "started_at": datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        "project_id": "p-1",
        "outcome": "ok",
    }
    return Event(**{**facts, **more})  # type: ignore[arg-type]


def test_the_reference_fields_come_first_with_their_types() -> None:
    """Names, order and types are the contract's; bodies are base64; the schema's version is there."""
    found = orjson.loads(event().to_wire())
    assert list(found)[: len(REFERENCE)] == REFERENCE
    assert found["Duration"] == 1_500_000
    assert base64.b64decode(found["RequestBody"]) == b'{"model":"m"}'
    assert found["ResponseHeaders"] == {"Content-Type": ["application/json"]}
    assert found["schema_version"] == 1
    assert found["Timestamp"] == "2026-01-02T03:04:05.678901Z"


def test_what_is_written_is_what_is_read() -> None:
    """A round trip keeps every field."""
    before = event(
        response_truncated=True, response_tail=b"tail", response_bytes=9, usage={"prompt_tokens": 3}, log_id=7
    )
    assert Event.from_wire(before.to_wire()) == before


def test_an_event_of_the_reference_is_read() -> None:
    """Without a single additive field, and with an unknown one."""
    wire = orjson.dumps({"LogID": 0, "RequestID": "x", "Method": "POST", "Path": "/", "Status": 200, "Other": [1]})
    found = Event.from_wire(wire)
    assert (found.request_id, found.started_at, found.event_id, found.response_body) == ("x", None, "", None)


@pytest.mark.parametrize("wire", [b"", b"[]", b"1", b"{", b"\xff"])
def test_what_is_no_object_is_refused(wire: bytes) -> None:
    """Anything but a JSON object raises ValueError."""
    with pytest.raises(ValueError):  # noqa: PT011 - orjson's own class
        Event.from_wire(wire)


def test_odd_types_count_as_absent() -> None:
    """A producer's mistakes never raise."""
    wire = orjson.dumps({"Status": "200", "Duration": True, "ResponseHeaders": [1], "RequestBody": 5, "Timestamp": "x"})
    found = Event.from_wire(wire)
    assert (found.status, found.duration_ns, found.response_headers, found.request_body) == (0, 0, {}, None)


def test_an_oversized_event_is_cut_and_keeps_the_end() -> None:
    """Odd caps: at most 1 MiB, marked as truncated, with the last 16 KiB of the response."""
    body = bytes(range(256)) * 8000
    found = Event.from_wire(event(request_body=b"q" * 400_000, response_body=body).to_wire())
    assert len(found.to_wire()) <= MAX_WIRE_BYTES
    assert found.response_truncated
    assert found.response_bytes == len(body)
    assert found.response_tail == body[-TAIL_BYTES:]
    assert found.request_body == b"q" * 400_000


def test_two_oversized_bodies_are_both_cut() -> None:
    """Never refused, whatever the caps."""
    found = event(request_body=b"q" * 3_000_000, response_body=b"a" * 2_000_000)
    assert len(found.to_wire()) <= MAX_WIRE_BYTES
    assert found.request_truncated


def test_a_number_is_given_once() -> None:
    """An event without LogID gets one; another keeps its own."""
    wire = number(event().to_wire(), 42)
    assert orjson.loads(wire)["LogID"] == 42
    assert number(wire, 43) == wire
