"""events.usage: what an exchange used, as its event tells it."""

import pytest

from llm_proxy.events.event import Event
from llm_proxy.events.usage import usage_in
from llm_proxy.formats.usage import Usage


@pytest.mark.parametrize(
    ("method", "status", "expected"),
    [("POST", 200, Usage(9, 4)), ("POST", 500, None), ("GET", 200, None)],
    ids=["made", "failed", "looked at"],
)
def test_a_look_at_an_object_uses_nothing_again(method: str, status: int, expected: Usage | None) -> None:
    """Nor does an error: what `/manage/usage` leaves out, events and the dispatcher leave out."""
    body = b'{"object":"chat.completion","usage":{"prompt_tokens":9,"completion_tokens":4}}'
    event = Event(request_id="r", method=method, path="/v1/x", status=status, response_body=body)
    assert usage_in(event) == expected
