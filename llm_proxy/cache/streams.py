"""Whether a recorded event stream is one that came to its own end."""

from llm_proxy.formats.sse import LINE_END, ends_event

_DONE = b"[DONE]"
_FAMILIES = (  # what an event of a known kind of stream says, and how the last one of such a stream begins or says
    (b'"object":"chat.completion.chunk"', _DONE),
    (b'"object":"text_completion"', _DONE),
    (b'"type":"response.', b'"type":"response.completed"'),
    (b'"type":"message_start"', b'"type":"message_stop"'),
    (b'"type":"content_block_', b'"type":"message_stop"'),
    (b'"type":"message_delta"', b'"type":"message_stop"'),
)
_MARKS = (b'"type":"response.completed"', b'"type":"message_stop"', b'"type":"done"')
_FAILED = (b'"type":"response.failed"', b'"type":"response.incomplete"', b'"type":"error"', b'"error":{', b'"error":"')
_LOOKED_AT_BYTES = 65_536
_FEW = 16  # lines at the end that tell the kind


def is_finished(content: bytes, *, is_framed: bool = True) -> bool:
    """Whether the provider has said all: its last event is whole and tells of no failure.

    Chat, completions, responses and messages say that they are at their end; without that word they are not finished,
    however cleanly the transfer ended.

    Args:
        is_framed: The transfer's own end was marked (chunks, a length). If not, a cut looks like an end, so streams of
            any other kind count as finished only if their last event says so.
    """
    tail = content[-_LOOKED_AT_BYTES:]
    if not ends_event(tail):
        return False  # in the middle of an event
    lines = [line for line in LINE_END.split(tail) if line.startswith((b"data:", b"event:"))]
    if not lines:
        return False
    last = lines[-1].removeprefix(b"data:").strip()
    names = {line.removeprefix(b"event:").strip() for line in lines if line.startswith(b"event:")}
    if last == _DONE:
        return not any(_says(line, _FAILED[3:]) for line in lines[-3:-1])
    if names & {b"error", b"response.failed", b"response.incomplete"}:
        return False
    if _says(last, _FAILED):
        return False
    ends = [end for kind, end in _FAMILIES if any(_says(line, (kind,)) for line in (lines[0], *lines[-_FEW:]))]
    if ends:
        return all(end != _DONE and _says(last, (end,)) for end in ends)
    return is_framed or _says(last, _MARKS)


def _says(line: bytes, marks: tuple[bytes, ...]) -> bool:
    compact = line.removeprefix(b"data:").replace(b" ", b"")
    return any(mark in compact for mark in marks)
