"""Responses of the management API as results or errors of a command."""

import pytest

from llm_proxy.cli.errors import AuthenticationError, CommandError
from llm_proxy.cli.management_results import result


@pytest.mark.parametrize(
    ("status", "content", "kind", "words"),
    [
        (404, b'{"error":"project not found"}', CommandError, "project not found"),
        (
            405,
            b'{"error":"method not allowed","message":"project deletion is not permitted"}',
            CommandError,
            "deletion",
        ),
        (401, b'{"error":"invalid management token"}', AuthenticationError, "invalid management token"),
        (302, b"", CommandError, "redirected"),
        (500, b"<html>", CommandError, "no reason given"),
        (200, b"<html>", CommandError, "is this an llm-proxy"),
    ],
)
def test_responses_become_errors(status: int, content: bytes, kind: type[CommandError], words: str) -> None:
    """The server's own words, and 401 apart because it has its own exit code."""
    with pytest.raises(kind, match=words) as error:
        result(status, content)
    assert type(error.value) is kind
