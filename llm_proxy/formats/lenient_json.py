"""JSON as providers and clients write it: strict where that works, else with the usual slips forgiven."""

import json
import re
from typing import Any

import orjson

from llm_proxy.runtime.short_turns import breathe

_ESCAPES = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<lone>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
_REPLACEMENT = "\\ufffd"


def loads(data: bytes) -> Any:
    """Return the JSON value. Raise ValueError where it is none, or is nested too deeply to be read.

    Forgiven are half surrogate pairs (RFC 8259 §8.2), bytes that are no UTF-8, a byte order mark, control characters in
    strings, NaN and Infinity. What comes back can always be written as UTF-8.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return _forgiving(data)


def loads_object(data: bytes) -> dict[str, Any] | None:
    """Return the JSON object; None where the data are none. Never raises."""
    try:
        value = loads(data)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _forgiving(data: bytes) -> Any:
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    if "\\u" in text:
        text = _ESCAPES.sub(_mended, text)
    try:
        return json.loads(text, strict=False)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _mended(found: re.Match[str]) -> str:
    breathe()
    return _REPLACEMENT if found["lone"] else found[0]
