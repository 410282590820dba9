"""events.file_sink: lines for people and log shippers."""

import errno
import gzip
import json
import os
import stat
from pathlib import Path

import pytest

from llm_proxy.events.event import Event
from llm_proxy.events.file_sink import FileSink, from_line, to_line
from llm_proxy.formats.usage import Usage

KEYS = [
    "log_id",
    "request_id",
    "method",
    "path",
    "status",
    "duration",
    "response_headers",
    "request_body",
    "response_body",
    "response_body_binary",
    "token_usage",
]


def event(
    body: bytes | None = b'{"id":"x","usage":{"total_tokens":5}}', media_type: str = "application/json", **more: object
) -> Event:
    """A usual event."""
    facts: dict[str, object] = {"request_id": "r-1", "method": "POST", "path": "/v1/x", "status": 200, "log_id": 3}
    headers = {"Content-Type": [media_type], "X-Request-Id": ["r-1"]}
    return Event(**{**facts, "response_headers": headers, "response_body": body, **more})  # type: ignore[arg-type]


def line(found: Event, **options: bool) -> dict[str, object]:
    """The event's line, read back."""
    text = to_line(found, **options)
    assert text.endswith(b"\n")
    assert text.count(b"\n") == 1
    parsed: dict[str, object] = json.loads(text)
    return parsed


def test_names_are_snake_case_and_usage_has_a_place_of_its_own() -> None:
    """The reference's keys first; header names too; `usage` moves out of the body; the request id is the real one."""
    found = line(event(request_body=b'{\n "a": 1\n}'))
    assert list(found)[: len(KEYS)] == KEYS
    assert found["response_headers"] == {"content_type": ["application/json"], "x_request_id": ["r-1"]}
    assert found["request_body"] == '{"a":1}'
    assert found["response_body"] == '{"id":"x"}'
    assert found["token_usage"] == {"total_tokens": 5}
    assert (found["request_id"], found["log_id"], found["response_body_binary"]) == ("r-1", 3, False)


@pytest.mark.parametrize(
    ("reported", "counted", "shown"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4}, (3, 4, 0, 0), {"prompt_tokens": 3, "completion_tokens": 4}),
        (
            {"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 135},
            (32, 103, 0, 94),
            {"prompt_tokens": 32, "completion_tokens": 103, "total_tokens": 135, "reasoning_tokens": 94},
        ),
        (
            {"input_tokens": 10, "output_tokens": 5},
            (1060, 5, 1000, 0),
            {
                "input_tokens": 10,
                "output_tokens": 5,
                "prompt_tokens": 1060,
                "completion_tokens": 5,
                "cached_tokens": 1000,
            },
        ),
    ],
    ids=["the same", "reasoning beside", "caches beside"],
)
def test_token_usage_is_what_was_counted(
    reported: dict[str, int], counted: tuple[int, int, int, int], shown: dict[str, int]
) -> None:
    """The proxy's four names have the numbers of `/manage/usage`; the provider's other members stay."""
    body = json.dumps({"id": "x", "usage": reported}).encode()
    assert line(event(body, usage=Usage(*counted).to_json()))["token_usage"] == shown


def test_a_stream_is_merged_and_compressed_bodies_are_text() -> None:
    """One completion instead of chunks, undone from gzip."""
    stream = b'data: {"choices":[{"index":0,"delta":{"content":"hi"}}],"usage":{"a":1}}\n\n'
    found = line(
        event(
            gzip.compress(stream),
            "text/event-stream",
            response_headers={"Content-Type": ["text/event-stream"], "Content-Encoding": ["gzip"]},
        )
    )
    assert json.loads(str(found["response_body"]))["choices"][0]["message"]["content"] == "hi"
    assert found["token_usage"] == {"a": 1}


def test_binary_responses_are_a_note_unless_they_are_asked_for() -> None:
    """The placeholder and its flag; base64 with LOG_BINARY_RESPONSES."""
    body = b"\xff\xfe\x00\x01"
    found = line(event(body, "application/pdf"))
    assert (found["response_body"], found["response_body_binary"]) == ("[binary or undecodable data]", True)
    assert line(event(body, "application/pdf"), keep_binary=True)["response_body"] == "//4AAQ=="
    assert line(event(None, "audio/mpeg"))["response_body_binary"] is True


def test_a_line_can_be_replayed() -> None:
    """The event of a line has the exchange's facts, texts and usage."""
    before = event(request_body=b'{"a":1}', project_id="p", event_id="e", outcome="ok")
    found = from_line(to_line(before))
    assert (found.request_id, found.project_id, found.event_id, found.outcome) == ("r-1", "p", "e", "ok")
    assert found.request_body == b'{"a":1}'
    assert json.loads(found.response_body or b"") == {"id": "x", "usage": {"total_tokens": 5}}


@pytest.mark.parametrize("text", [b"{}", b"[]", b"", b"nonsense"])
def test_another_line_is_refused(text: bytes) -> None:
    """ValueError, so that a replay can count and go on."""
    with pytest.raises(ValueError):  # noqa: PT011 - orjson's own class
        from_line(text)


def test_the_file_is_private_appended_to_and_found_again(tmp_path: Path) -> None:
    """0600, parents made, reopened after a rename."""
    lost: list[int] = []
    path = tmp_path / "new" / "events.jsonl"
    sink = FileSink(path, count_lost=lost.append)
    sink.write(event())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    os.rename(path, tmp_path / "old")
    sink.write(event())
    sink.reopen()
    sink.write(event())
    assert (path.read_bytes().count(b"\n"), (tmp_path / "old").read_bytes().count(b"\n"), lost) == (2, 1, [])


def test_a_full_disk_is_counted_and_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short write is undone."""
    lost: list[int] = []
    sink = FileSink(tmp_path / "f", count_lost=lost.append)
    sink.write(event())
    before = (tmp_path / "f").read_bytes()
    real, taken = os.write, [10]

    def full(descriptor: int, data: bytes) -> int:
        if not taken:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[: taken.pop()])

    monkeypatch.setattr(os, "write", full)
    sink.write(event())
    assert lost == [1]
    assert (tmp_path / "f").read_bytes() == before


def test_a_path_that_cannot_be_is_counted(tmp_path: Path) -> None:
    """Never an exception."""
    lost: list[int] = []
    FileSink(tmp_path, count_lost=lost.append).write(event())
    assert lost == [1]
