"""formats.lenient_json: what providers and clients write is read, and can be written again."""

from typing import Any

import orjson
import pytest

from llm_proxy.formats.lenient_json import loads, loads_object


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (rb'{"a":"\ud83d"}', {"a": "\ufffd"}),
        (rb'{"a":"\ud83d\ud83d\ude00\ude00"}', {"a": "\ufffd\U0001f600\ufffd"}),
        (rb'{"a":"\\ud83d"}', {"a": "\\ud83d"}),
        (b"\xef\xbb\xbf[1]", [1]),
        (b'{"a":"\xff"}', {"a": "\ufffd"}),
        (b'{"a":"x\ty"}', {"a": "x\ty"}),
        (b'{"a":-Infinity}', {"a": float("-inf")}),
    ],
    ids=["half a pair", "halves around a pair", "escaped backslash", "mark", "no UTF-8", "control", "infinity"],
)
def test_slips_are_forgiven(data: bytes, value: Any) -> None:
    """Each of them is met in the field."""
    found = loads(data)
    assert found == value
    orjson.dumps(found)


@pytest.mark.parametrize("data", [b"", b"{", b"[1] [2]", b"[" * 100_000, b"[DONE]"])
def test_what_is_no_json_is_refused(data: bytes) -> None:
    """By a ValueError alone, whatever it is."""
    with pytest.raises(ValueError):  # noqa: PT011  (JSONDecodeError of two libraries)
        loads(data)
    assert loads_object(data) is None
