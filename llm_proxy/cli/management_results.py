"""What a call of the management API takes and gives, whichever way it is made."""

import json
from collections.abc import Mapping
from typing import Any

from llm_proxy.cli.errors import AuthenticationError, CommandError

Query = Mapping[str, str | int | None]


def result(status: int, content: bytes) -> Any:
    """Return the response's JSON. Raises CommandError for 3xx to 5xx, AuthenticationError for 401."""
    try:
        value = json.loads(content) if content.strip() else None
    except ValueError:
        value = None
        if status < 300:
            raise CommandError("the server's response is no JSON; is this an llm-proxy?") from None
    if status < 300:
        return value
    about = value if isinstance(value, dict) else {}
    words = about.get("message") or about.get("error")
    if not isinstance(words, str):
        words = "redirected, which is not followed" if status < 400 else "no reason given"
    raise (AuthenticationError if status == 401 else CommandError)(words, status)
