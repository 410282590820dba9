"""The members of a JSON object, found while its bytes pass."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_proxy.errors import InvalidJson
from llm_proxy.formats.json_members import MAX_MEMBERS, MAX_VALUE_BYTES, JsonMembers, Member

PIECES = (1, 2, 3, 7, 16384)


def members(body: bytes, piece: int = 16384) -> list[Member]:
    """Those called `model`, in any case, fed in pieces."""
    found: list[Member] = []
    reader = JsonMembers(lambda name: name.casefold() == "model", found.append)
    for start in range(0, len(body), piece):
        reader.feed(body[start : start + piece])
    reader.finish()
    return found


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize(
    ("body", "texts"),
    [
        (b'{"model":"gpt"}', ["gpt"]),
        (b' {\r\n"a" : [ 1 , {"model":2} ] , "model" : "x" }\t', ["x"]),
        (b'{"MODEL":"a","mod\\u0065l":"\\u00e9","model":null}', ["a", "é", "null"]),
        (b'{"model":["a", 1 ,{"b": null}],"x":[[[]],[{}],{"a":[1,2,{"c":3}]}]}', ['["a",1,{"b":null}]']),
        (b'{"n":' + b"1" * 5000 + b',"model":-1.0e5}', ["-1.0e5"]),
        (b'{"x":{"a":"b","c":[1,[2,[3,[4,[5]]]]]},"y":[{"":{}},[],"",0],"model":true}', ["true"]),
        (b"{}", []),
    ],
)
def test_members(body: bytes, texts: list[str], piece: int) -> None:
    """Of the object itself, however its bytes are cut."""
    assert [member.text for member in members(body, piece)] == texts


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"{}x", b'{"a":01}', b'{"a":NaN}', b'{"a":1,}', b'{"a":"\x01"}', b'{"a":"\xe9"}', b'{"a" 1}',
     b'{"a":1]}', b'{"a":[1}}', b"\xef\xbb\xbf{}", b"{}{}", b"{'a':1}", b'{"a":tru}', b'{"a":[1,,2]}', b'{"a":[1 2]}',
     b'{"a":{"b":1,"c"}}', b'{"a":[1,]}', b'{"model":"\\ud800"}', b'{"a":"\\x"}', b'{"a":' + b"[" * 2000, b'{"a":+1}',
     b'{"a":[0,01]}', b'{"a":[0,1.]}', b'{"a":{"b":0,"c":1e}}', b'{"a":' + b"1" * 20_000 + b"}"],
    ids=lambda body: repr(body[:20]),
)  # fmt: skip
def test_what_is_no_json_object_is_refused(body: bytes, piece: int) -> None:
    """However its bytes are cut."""
    with pytest.raises(InvalidJson):
        members(body, piece)


def test_members_are_bounded() -> None:
    """A value that is too long comes without its text; too many members are none of an API's."""
    assert members(b'{"model":"' + b"x" * MAX_VALUE_BYTES + b'"}') == [Member("model", None, True)]
    assert members(b'{"model":[' + b"0," * MAX_VALUE_BYTES + b"0]}") == [Member("model", None, False)]
    assert members(b'{"' + b"x" * 10_000 + b'":0,"model":1}') == [Member("model", "1", False)]
    with pytest.raises(InvalidJson):
        members(b'{"a":0' + b',"a":0' * MAX_MEMBERS + b"}")


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["model", "Model", "a"]), VALUE), max_size=4), st.booleans(), st.integers(1, 9)
)
def test_members_agree_with_the_standard_parser(pairs: list[tuple[str, object]], is_ascii: bool, piece: int) -> None:
    """Every value is found as it stands there."""
    body = "{" + ", ".join(f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=is_ascii)}" for k, v in pairs) + "}"
    found = [m.text if m.is_string else json.loads(m.text or "") for m in members(body.encode(), piece)]
    assert found == [value for name, value in pairs if name != "a"]


@settings(max_examples=300, deadline=None)
@given(st.text('{}[]",:0e. \\atrue', max_size=12), st.integers(1, 9))
def test_texts_are_judged_as_by_the_standard_parser(text: str, piece: int) -> None:
    """Objects of scraps are one JSON object for both readers, or for none."""
    body = '{"a":' + text + "}"
    try:
        is_object = isinstance(json.loads(body), dict)
    except ValueError:
        is_object = False
    if is_object:
        members(body.encode(), piece)
    else:
        with pytest.raises(InvalidJson):
            members(body.encode(), piece)
