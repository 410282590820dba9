"""What a call of the management API brings along: body, parameters, preconditions."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from flask import Flask

from llm_proxy.errors import BadRequest, PreconditionFailed
from llm_proxy.web.management import parsing

APP = Flask(__name__)


@contextmanager
def call(query: str = "", **more: Any) -> Iterator[None]:
    """Make a request the present one."""
    with APP.test_request_context(f"/manage/tokens{query}", **more):
        yield


@pytest.mark.parametrize(
    ("query", "is_end", "instant"),
    [
        ("?at=2026-01-02", False, datetime(2026, 1, 2, tzinfo=UTC)),
        ("?at=2026-01-02", True, datetime(2026, 1, 2, 23, 59, 59, 999_999, tzinfo=UTC)),
        ("?at=2026-01-02T03:04:05Z", False, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("?at=2026-01-02T03:04:05Z", True, datetime(2026, 1, 2, 3, 4, 5, 999_999, tzinfo=UTC)),
        ("?at=2026-01-02T03:04:05.5Z", True, datetime(2026, 1, 2, 3, 4, 5, 500_000, tzinfo=UTC)),
        ("?at=2026-01-02T03:04:05+01:00", False, datetime(2026, 1, 2, 2, 4, 5, tzinfo=UTC)),
        ("", False, None),
    ],
)
def test_instants(query: str, is_end: bool, instant: datetime | None) -> None:
    """An end covers the whole day or second that it names; a bare + arrives as a blank."""
    with call(query):
        assert parsing.instant("at", is_end=is_end) == instant


@pytest.mark.parametrize("text", ["2026-13-01", "2026-01-02T03:04:05", "yesterday", "2026-02-30"])
def test_other_instants_are_refused(text: str) -> None:
    """The error names the parameter."""
    with call(f"?at={text}"), pytest.raises(BadRequest) as refused:
        parsing.instant("at")
    assert refused.value.param == "at"


@pytest.mark.parametrize(
    ("query", "read", "value"),
    [
        ("?all=true", lambda: parsing.flag("all"), True),
        ("?all=0", lambda: parsing.flag("all"), False),
        ("?limit=7", lambda: parsing.integer("limit", 1, 9), 7),
        ("", lambda: parsing.integer("limit", 1, 9), None),
        ("?b=2&a=1", lambda: parsing.parameter("a", "b"), "1"),
        ("?ids=a,,b", parsing.ids, frozenset("ab")),
        ("?id=a%00", lambda: parsing.word("id"), "a\ufffd"),
    ],
)
def test_parameters(query: str, read: Callable[[], Any], value: object) -> None:
    """An empty flag is absent, the first name that is given counts, and a NUL matches nothing."""
    with call(query):
        assert read() == value


@pytest.mark.parametrize(
    ("query", "read"),
    [
        ("?all=yes", lambda: parsing.flag("all")),
        ("?limit=", lambda: parsing.integer("limit", 1, 9)),
        ("?limit=0", lambda: parsing.integer("limit", 1, 9)),
        ("?limit=x", lambda: parsing.integer("limit", 1, 9)),
        (f"?search={'x' * 201}", parsing.search),
        (f"?ids={','.join(map(str, range(101)))}", parsing.ids),
    ],
)
def test_parameters_out_of_bounds_are_refused(query: str, read: Callable[[], Any]) -> None:
    """400."""
    with call(query), pytest.raises(BadRequest):
        read()


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"a": NaN}', b'{"a": 1e999}', b'{"a": "\\ud800"}', b"\xff", b""])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    """Neither are numbers beyond all bounds, nor half a pair, which no database stores."""
    with call(method="POST", data=body), pytest.raises(BadRequest):
        parsing.json_object()


@pytest.mark.parametrize("field", [None, "*", '"a"', '"b", "a"'])
def test_a_seen_object_may_be_changed(field: str | None) -> None:
    """Without the field, by a wildcard, or by its tag."""
    with call(headers={} if field is None else {"If-Match": field}):
        parsing.if_match(lambda stored: f'"{stored}"')("a")


@pytest.mark.parametrize("field", ['"b"', 'W/"a"', "a", ""])
def test_another_state_is_not_changed(field: str) -> None:
    """Weak tags never match (RFC 9110 §13.1.1); an object without a tag is not judged."""
    with call(headers={"If-Match": field}):
        with pytest.raises(PreconditionFailed):
            parsing.if_match(lambda stored: f'"{stored}"')("a")
        parsing.if_match(None)("a")
