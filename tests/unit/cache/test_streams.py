"""Which recorded event streams came to their own end."""

import pytest

from llm_proxy.cache.streams import is_finished

CHAT = b'data: {"id":"1","object":"chat.completion.chunk","choices":[{"delta":{"content":"[DONE]"}}]}'
DONE = b"data: [DONE]"
CREATED = b'event: response.created\ndata: {"type": "response.created"}'
DELTA = b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"x"}'
START = b'event: message_start\ndata: {"type":"message_start"}'
BLOCK = b'event: content_block_delta\ndata: {"type":"content_block_delta"}'
PING = b'data: {"type":"ping"}'


def of_responses(end: str) -> bytes:
    """The last event of a stream of responses."""
    return f'event: response.{end}\ndata: {{"type":"response.{end}","response":{{"error":null}}}}'.encode()


@pytest.mark.parametrize(
    ("events", "is_whole"),
    [
        ((CHAT, DONE), True),
        ((CHAT,), False),
        ((CHAT, b'data: {"error": {"message": "overloaded"}}', DONE), False),
        ((CHAT, b'data: {"error": {"message": "overloaded"}}'), False),
        ((CREATED, DELTA, of_responses("completed")), True),
        ((CREATED, DELTA), False),
        ((CREATED, of_responses("failed")), False),
        ((CREATED, of_responses("incomplete")), False),
        ((START, BLOCK, b'event: message_stop\ndata: {"type":"message_stop"}'), True),
        ((START, *[BLOCK] * 5000), False),
        ((START, b'event: error\ndata: {"type":"error"}'), False),
        ((PING, PING), True),
        ((), False),
    ],
)
@pytest.mark.parametrize("line", [b"\n", b"\r\n"])
def test_a_stream_is_finished_when_it_has_said_so(events: tuple[bytes, ...], is_whole: bool, line: bytes) -> None:
    """A clean end of the transfer is not enough where the kind of stream has a word for its end."""
    content = b"".join(event.replace(b"\n", line) + line * 2 for event in events)
    assert is_finished(content) is is_whole


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_stream_that_ends_within_an_event_is_not_finished(cut: int) -> None:
    """However little is missing."""
    content = b"\n\n".join((CHAT, DONE, b""))
    assert not is_finished(content[:-cut])


@pytest.mark.parametrize(("last", "is_whole"), [(PING, False), (DONE, True), (b'data: {"type":"done"}', True)])
def test_without_framing_only_the_last_event_can_tell(last: bytes, is_whole: bool) -> None:
    """The end of the connection may be a cut."""
    assert is_finished(b"\n\n".join((PING, last, b"")), is_framed=False) is is_whole
