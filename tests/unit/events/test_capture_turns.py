"""An event and the usage of a response that is worst for their readers: the loop has its turn every few milliseconds.

Judged by the CPU time of the thread between two switches of greenlets, because wall clocks show the machine's load.
"""

import gc
import gzip
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import greenlet
import orjson
import pytest

from llm_proxy.events.capture import Capture, CaptureLimits
from llm_proxy.events.event import Event
from llm_proxy.events.file_sink import to_line
from llm_proxy.events.queue import Queue
from llm_proxy.formats.reading import read
from llm_proxy.runtime.short_turns import long_work
from llm_proxy.usage.tap import Tap

MOST_S = 0.012  # the machine that tests run on may be slow; as one turn each of these takes 15 to 300 ms
KEY = "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789"
STREAM, JSON = "text/event-stream", "application/json"
SIZE = 5_000_000


def repeated(piece: bytes, start: bytes = b"", end: bytes = b"") -> bytes:
    return start + piece * (SIZE // len(piece)) + end


def stream(choice: Callable[[int], dict[str, Any]]) -> bytes:
    frames: list[bytes] = []
    while sum(map(len, frames[-1:])) * len(frames) < SIZE:
        frames.append(b"data: " + orjson.dumps({"model": "m", "choices": [choice(len(frames))]}) + b"\n\n")
    return b"".join(frames)


def call(number: int, **more: object) -> dict[str, Any]:
    return {"index": 1, "delta": {"tool_calls": [{"id": f"c{number}", "function": {"name": "f"}, **more}]}}


BODIES: dict[str, tuple[str, bytes]] = {
    "choices": (JSON, repeated(b'{"index":0,"message":{"content":"a"}},', b'{"choices":[', b"{}]}")),
    "one long text of escapes": (JSON, repeated(b"\\u0041%41", b'{"choices":[{"message":{"content":"', b'"}}]}')),
    "half surrogates": (JSON, repeated(b"\\ud800", b'{"content":"', b'"}')),
    "nesting": (JSON, b"[" * SIZE),
    "usages that are none": (JSON, repeated(b'{"usage":{')),
    "events": (STREAM, stream(lambda number: {"index": number % 2, "delta": {"content": "a"}})),
    "events of many choices": (STREAM, stream(lambda number: {"index": number, "delta": {"content": "a"}})),
    "tool calls": (STREAM, stream(lambda number: call(number, index=number))),
    "tool calls without an index": (STREAM, stream(call)),
    "tool calls of one index": (STREAM, stream(lambda number: call(number, index=0))),
    "events of no family": (STREAM, repeated(b'data:{"index":1}\n\n')),
    "comments": (STREAM, repeated(b":\n\n")),
    "usage in each event": (STREAM, repeated(b'data:{"usage":{"a":1}}\n\n')),
    "a key and log probabilities": (
        STREAM,
        repeated(b'data:{"choices":[{"index":1,"delta":{"content":"' + KEY.encode() + b'"},"logprobs":{}}]}\n\n'),
    ),
}


@contextmanager
def turns() -> Iterator[list[float]]:
    """The CPU time between each two switches of greenlets, in seconds."""
    found: list[float] = []
    began = time.thread_time()

    def note(event: str, greenlets: object) -> None:
        nonlocal began
        now = time.thread_time()
        found.append(now - began)
        began = now

    gc.disable()  # a collection would look through all that the tests have imported
    before = greenlet.settrace(note)
    try:
        yield found
    finally:
        greenlet.settrace(before)
        gc.enable()


def captured(media_type: str, encoding: str, body: bytes) -> Capture:
    capture = Capture(CaptureLimits(), method="POST", path="/v1/x", request_id="r", started_at_s=1.7e9)
    add = capture.response_started(200, [("Content-Type", media_type), ("Content-Encoding", encoding)])
    assert add is not None
    for start in range(0, len(body), 65536):
        add(body[start : start + 65536])
    capture.finish(status=200, outcome="ok", duration_ns=1, secrets=[KEY])
    return capture


def longest_turn_s(work: Callable[[], object]) -> float:
    """Of three tries the shortest: what else the machine does counts once at most."""

    def run() -> None:
        with long_work():
            work()

    tries: list[float] = []
    for _ in range(3):
        with turns() as found:
            gevent.spawn(run).get()
        tries.append(max(found))
    return min(tries)


@pytest.mark.parametrize("encoding", ["", "gzip"])
@pytest.mark.parametrize("name", BODIES)
def test_what_is_made_of_a_response_never_holds_the_loop(name: str, encoding: str) -> None:
    """Neither its event, nor the line of a file, nor its usage."""
    media_type, body = BODIES[name]
    body = gzip.compress(body, 1) if encoding else body
    capture, tap = captured(media_type, encoding, body), Tap(encoding)
    for start in range(0, len(body), 65536):
        tap(body[start : start + 65536])
    made: list[Event] = []
    assert longest_turn_s(lambda: made.append(capture.event())) < MOST_S
    assert longest_turn_s(lambda: to_line(made[0])) < MOST_S
    assert longest_turn_s(lambda: read(tap.finish(), media_type)) < MOST_S


def test_the_oldest_event_stays_in_the_queue_until_it_is_made() -> None:
    """A full queue may spill it meanwhile, and nothing is sent twice or lost."""
    queue = Queue()
    capture = captured(*(BODIES["events"][0], "", BODIES["events"][1]))
    queue.add(capture, capture.held_bytes)
    making = gevent.spawn(queue.take_made)
    gevent.sleep(0)
    assert len(queue.items) == 1
    assert not making.ready()
    spilled = queue.take()
    assert making.get() is None
    assert spilled.event().event_id
    assert not queue.items
