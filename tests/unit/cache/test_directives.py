"""Cache fields as their RFCs have them; junk counts as absent or as 0, and never raises."""

import pytest

from llm_proxy.cache import directives


@pytest.mark.parametrize(
    ("lines", "name", "value"),
    [
        (["max-age=60"], "max-age", 60),
        (["Max-Age=60, public"], "max-age", 60),
        (['max-age="60"'], "max-age", 60),
        (["public", "max-age=5"], "max-age", 5),
        (["max-age=5, max-age=5"], "max-age", 5),
        (["max-age=5, max-age=6"], "max-age", 0),
        (["max-age=-1"], "max-age", 0),
        (["max-age"], "max-age", 0),
        (["max-age=99999999999"], "max-age", directives.MOST_S),
        (["max-age=0000000060"], "max-age", 60),
        (['private="a, b", max-age=7'], "max-age", 7),
        (["public"], "max-age", None),
        ([], "max-age", None),
    ],
)
def test_seconds_of_a_directive(lines: list[str], name: str, value: int | None) -> None:
    """Two different values are 0, a number beyond 2³¹ is 2³¹, an absent directive is None."""
    assert directives.seconds(directives.directives(lines), name) == value


@pytest.mark.parametrize(
    ("lines", "age"),
    [
        (["7"], 7),
        (["7, 9"], 7),
        (["7", "9"], 7),
        (["-1"], None),
        (["1.5"], None),
        (["x"], None),
        ([""], None),
        ([], None),
    ],
)
def test_the_first_member_of_age_counts(lines: list[str], age: int | None) -> None:
    """An invalid one is ignored (RFC 9111 §5.1)."""
    assert directives.age(lines) == age


@pytest.mark.parametrize(
    "text", ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
)
def test_three_forms_of_a_date(text: str) -> None:
    """RFC 9110 §5.6.7, in any case."""
    assert directives.instant(text) == directives.instant(text.lower()) == 784111777


@pytest.mark.parametrize(
    "text",
    [
        "Sun, 06 Nov 1994 08:49:37 CET",
        "Sun, 6 Nov 1994 08:49:37 GMT",
        "Sun, 31 Feb 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 24:00:00 GMT",
        "Sun, 06 Nov 1994 08:49:37 GMT ",
        "0",
        "",
    ],
)
def test_other_dates_are_none(text: str) -> None:
    """Another zone, a missing digit, a day that the month lacks."""
    assert directives.instant(text) is None


def test_entity_tags_are_compared_weakly() -> None:
    """Tags stay as written, commas inside of quotes included."""
    assert directives.tags(['"a,b", W/"c"', "*"]) == ['"a,b"', 'W/"c"', "*"]
    assert directives.is_same_weakly('W/"c"', '"c"')
    assert not directives.is_same_weakly('"c"', '"d"')
