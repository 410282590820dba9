"""The parameter allow-list and its globs ."""

import json
import re
import time
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_proxy.errors import InvalidJson, ParamNotAllowed
from llm_proxy.formats.request_body import reader_of
from llm_proxy.providers import ParameterRules
from llm_proxy.providers.parameters import compile_glob

RULES = ParameterRules(
    {"model": ["gpt-4o", "gpt-4.1-*"], "n": ["[123]"], "tools": ['\\["a"]'], "flag": ["true", "null"]}
)


def check_body(rules: ParameterRules, body: bytes, content_type: str) -> None:
    """As the inspection does it."""
    reader = reader_of(content_type, rules.names, lambda found: rules.check(found.name, found.text or "…"))
    reader.feed(body)
    reader.finish()


def check_json(rules: ParameterRules, body: bytes) -> None:
    """The same for a JSON object."""
    check_body(rules, body, "application/json")


@pytest.mark.parametrize(
    "body",
    [
        '{"model":"gpt-4o"}',
        '{"model":"gpt-4.1-mini","n":3}',
        "{}",
        '{"other":"gpt-3"}',
        '{"nested":{"model":"gpt-3"}}',
        '{"messages":[{"model":"gpt-3"}],"model":"gpt-4o"}',
        '{"tools":["a"]}',
        '{"tools":[ "a" ]}',
        '{"flag":true}',
        '{"flag":null}',
        '{"model":"gpt-4\\u006f"}',
        ' {"model" : "gpt-4o"} ',
    ],
)
def test_allowed_bodies_pass(body: str) -> None:
    """Absent parameters pass, values are compared as text, nested ones are not looked at."""
    check_json(RULES, body.encode())


@pytest.mark.parametrize(
    "body",
    [
        '{"model":"gpt-3"}',
        '{"model":"GPT-4o"}',
        '{"model":"gpt-4o "}',
        '{"model":"gpt-4.1-a/b"}',
        '{"model":""}',
        '{"model":null}',
        '{"model":["gpt-4o"]}',
        '{"n":12}',
        '{"n":1.0}',
        '{"flag":false}',
        '{"model":"gpt-4o","model":"gpt-3"}',
        '{"model":"gpt-3","model":"gpt-4o"}',
        '{"mod\\u0065l":"gpt-3"}',
        '{"model":"gpt-4o","mod\\u0065l":"gpt-3"}',
        '{"tools":[{"a":1,"a":2}]}',
        '{"model":"gpt-4o","MODEL":"gpt-4"}',
        '{"model":"gpt-4o","mode\\u006C":"gpt-4"}',
        '{"ﬂag":"false"}',
    ],
)
def test_refused_bodies(body: str) -> None:
    """Every occurrence must match, however its name is written."""
    with pytest.raises(ParamNotAllowed):
        check_json(RULES, body.encode())


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'"model"', b"null", b"{'model':1}", b'{"a":NaN}', b"\xff", b"[" * 100_000, b"\xef\xbb\xbf{}"],
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    """Declared JSON that cannot be read would pass unchecked."""
    with pytest.raises(InvalidJson):
        check_json(RULES, body)


def test_a_name_with_a_slash_is_found_however_it_is_escaped() -> None:
    r"""JSON may write `a/b` as `a\/b`, which no search for the name finds."""
    with pytest.raises(ParamNotAllowed):
        check_json(ParameterRules({"a/b": ["x"]}), rb'{"a/b":"x","a\/b":"y"}')


@pytest.mark.parametrize(
    ("query", "is_allowed"),
    [
        ("", True),
        ("a=1&model=gpt-4o", True),
        ("model=gpt-4%6f", True),
        ("model=gpt-3", False),
        ("mo%64el=gpt-3", False),
        ("model=gpt-4o&model=gpt-3", False),
        ("model", False),
        ("model=", False),
        ("Model=gpt-3", False),
        ("a=1;model=gpt-3", False),
        ("model[]=gpt-3", False),
        ("+model=gpt-3", False),
        ("%20model%00x=gpt-3", False),
        ("model=gpt-4o;x=1", False),
        ("model=gpt-4o&x=1;y", True),
    ],
)
def test_query_and_form_are_decoded_first(query: str, is_allowed: bool) -> None:
    """The same rules hold for the query string and for urlencoded bodies."""
    for check in (
        RULES.check_query,
        lambda text: check_body(RULES, text.encode(), "application/x-www-form-urlencoded"),
    ):
        if is_allowed:
            check(query)
        else:
            with pytest.raises(ParamNotAllowed):
                check(query)


def test_the_refusal_reads_as_the_contract_says() -> None:
    """Name, value and patterns."""
    with pytest.raises(ParamNotAllowed) as caught:
        RULES.check("model", "gpt-3.5-turbo")
    wanted = "Parameter 'model' value 'gpt-3.5-turbo' is not allowed. Allowed patterns: [gpt-4o gpt-4.1-*]"
    assert (caught.value.message, caught.value.param) == (wanted, "model")


def test_a_long_value_is_cut_in_the_refusal() -> None:
    """256 characters of it are shown."""
    with pytest.raises(ParamNotAllowed) as caught:
        RULES.check("model", "x" * 1000)
    assert "'" + "x" * 256 + "'" in caught.value.message


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        ("gpt-4o", ["gpt-4o"], ["gpt-4", "gpt-4o1", "xgpt-4o", "GPT-4O", ""]),
        ("gpt-4o-*", ["gpt-4o-", "gpt-4o-mini"], ["gpt-4o", "gpt-4o-a/b"]),
        ("*", ["", "a", "a\nb"], ["a/b", "/"]),
        ("*/*", ["a/b", "/"], ["a", "a/b/c"]),
        ("a?c", ["abc", "a.c"], ["ac", "a/c", "abbc"]),
        ("[a-c]x", ["ax", "cx"], ["dx", "x", "-x"]),
        ("[^a-c]x", ["dx"], ["ax", "/x", "x"]),
        (r"\*", ["*"], ["a", r"\*"]),
        (r"[\]a]", ["]", "a"], ["b", "\\"]),
        ("a.b", ["a.b"], ["axb"]),
        ("a*b*c", ["abc", "aXbYc", "abbcc"], ["acb", "ab", "abcd"]),
        ("*a*a", ["aa", "baca"], ["a", "ab"]),
        ("a**b", ["ab", "axb"], ["a/b"]),
    ],
)
def test_globs(pattern: str, good: list[str], bad: list[str]) -> None:
    """Shell patterns over the whole string; neither star nor class takes a slash."""
    compiled = compile_glob(pattern)
    assert [value for value in good if not compiled.fullmatch(value)] == []
    assert [value for value in bad if compiled.fullmatch(value)] == []


@pytest.mark.parametrize("pattern", ["", "[", "[a", "[]", "[^]", "[a-]", "[z-a]", "a\\", "[\\"])
def test_a_bad_pattern_is_refused_when_the_file_is_read(pattern: str) -> None:
    """A pattern that could never match is a fault, not a rule."""
    with pytest.raises(ValueError, match="a pattern"):
        compile_glob(pattern)


def test_a_hostile_value_costs_no_more_than_its_length() -> None:
    """Values belong to clients: many stars over a megabyte that nearly matches take well under a second."""
    compiled = compile_glob("*-*-*-*-*x*y*z")
    started = time.process_time()
    assert not compiled.fullmatch("-" * 1_000_000)
    assert time.process_time() - started < 5.0


@cache
def naive(pattern: str, value: str) -> bool:
    """The same language, written to be obviously right; exponential."""
    if not pattern:
        return not value
    if pattern[0] == "*":
        return naive(pattern[1:], value) or (bool(value) and value[0] != "/" and naive(pattern, value[1:]))
    if not value:
        return False
    if pattern[0] == "[":
        end = pattern.index("]", 1)
        inner = pattern[1:end]
        is_in = value[0] in inner.lstrip("^")
        return value[0] != "/" and is_in != inner.startswith("^") and naive(pattern[end + 1 :], value[1:])
    fits = value[0] != "/" if pattern[0] == "?" else value[0] == pattern[0]
    return fits and naive(pattern[1:], value[1:])


@settings(max_examples=1500, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "/", "*", "?", "[ab]", "[^a]"]), min_size=1, max_size=8).map("".join),
       st.text("ab/-", max_size=10))  # fmt: skip
def test_globs_agree_with_the_naive_matcher(pattern: str, value: str) -> None:
    """Never trying again what stands between two stars loses no match."""
    assert bool(compile_glob(pattern).fullmatch(value)) == naive(pattern, value)


JSON_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["model", "x"]), inner, max_size=2),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["model", "a", "b"]), JSON_VALUE), max_size=5), st.booleans())
def test_json_is_judged_by_every_occurrence(members: list[tuple[str, object]], is_ascii: bool) -> None:
    """Whichever parser is taken, one refused occurrence refuses the body."""
    body = "{" + ",".join(f"{json.dumps(k)}:{json.dumps(v, ensure_ascii=is_ascii)}" for k, v in members) + "}"
    values = [v if isinstance(v, str) else json.dumps(v, separators=(",", ":"), ensure_ascii=False)
              for k, v in members if k == "model"]  # fmt: skip
    rules = ParameterRules({"model": ["[a-m0-9]*", "t*"]})
    if all(re.fullmatch(r"[a-m0-9][^/]*|t[^/]*", value) for value in values):
        check_json(rules, body.encode())
    else:
        with pytest.raises(ParamNotAllowed):
            check_json(rules, body.encode())
