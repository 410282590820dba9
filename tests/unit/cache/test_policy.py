"""RFC 9111 as this cache reads it: what is stored, for how long, and what may be served."""

from email.utils import formatdate

import pytest

from llm_proxy.cache import policy
from llm_proxy.cache.conditional import conditions, is_not_modified, is_unchanged
from llm_proxy.cache.directives import age, instant
from llm_proxy.cache.entry import Entry
from llm_proxy.cache.policy import ReceivedResponse, Refused, Rules, Verdict, judge, request_directives, storable

NOW = 1_800_000_000.0
RULES = Rules()


def received(
    *cache_control: str,
    status: int = 200,
    fields: tuple[tuple[str, str], ...] = (),
    asks: str = "",
    is_opted_in: bool = False,
) -> ReceivedResponse:
    """An authorized request's response."""
    lines = tuple(("Cache-Control", value) for value in cache_control)
    asked = request_directives([asks]) if asks else policy.NO_DIRECTIVES
    return ReceivedResponse(status, "OK", (*lines, *fields), NOW, NOW, asked, is_opted_in=is_opted_in)


def entry(*cache_control: str, **about: object) -> Entry:
    """What such a response becomes."""
    made = storable(received(*cache_control, **about), RULES)  # type: ignore[arg-type]
    assert isinstance(made, Entry), made
    return made


@pytest.mark.parametrize(
    ("cache_control", "lifetime_s"),
    [
        (["public, max-age=60"], 60),
        (["s-maxage=30"], 30),
        (["max-age=10, s-maxage=30, public"], 30),
        (["public", "max-age=7"], 7),
        (['public, max-age="9"'], 9),
        (["public"], 300),
    ],
)
def test_shared_responses_are_stored_for_their_lifetime(cache_control: list[str], lifetime_s: float) -> None:
    """s-maxage before max-age before the default; repeated lines count as one."""
    assert entry(*cache_control).lifetime_s == lifetime_s


@pytest.mark.parametrize(
    ("cache_control", "status"),
    [
        (["max-age=60"], 200),  # RFC 9111 §3.5: the request had Authorization
        ([], 200),
        (["public, no-store"], 200),
        (["private, max-age=60"], 200),
        (["public, max-age=0"], 200),
        (["public, max-age=60"], 206),
    ],
)
def test_other_responses_are_not_stored(cache_control: list[str], status: int) -> None:
    """Nothing is stored that is not explicitly for all of the project."""
    assert isinstance(storable(received(*cache_control, status=status), RULES), Refused)


def test_a_client_can_ask_for_a_lifetime_only_where_the_response_names_none() -> None:
    """A forced lifetime is the client's, and never beats no-store or private."""
    forced = entry(asks="public, max-age=60", is_opted_in=True)
    assert (forced.lifetime_s, forced.is_forced) == (60, True)
    assert ("Cache-Control", "public, max-age=60") in forced.fields
    for line in ("no-store", "private"):
        assert isinstance(storable(received(line, asks="public, max-age=60", is_opted_in=True), RULES), Refused)


@pytest.mark.parametrize(
    ("cache_control", "status", "is_stored"),
    [
        ("public, max-age=60, no-store, must-understand", 200, True),
        ("public, max-age=60, no-store, must-understand", 499, False),
        ("public, max-age=60, no-store, must-understand, private", 200, False),
        ("public, max-age=60, no-store", 200, False),
    ],
)
def test_must_understand_overrides_no_store_where_the_status_is_known(
    cache_control: str, status: int, is_stored: bool
) -> None:
    """RFC 9111 §5.2.2.3: the no-store beside it is for caches that do not know must-understand."""
    assert isinstance(storable(received(cache_control, status=status), RULES), Entry) is is_stored


def test_an_event_stream_is_stored_only_when_the_operator_and_the_client_want_it() -> None:
    """Both settings are needed."""
    fields = (("Content-Type", "text/event-stream"),)
    response = received(fields=fields, asks="public, max-age=60", is_opted_in=True)
    assert isinstance(storable(response, RULES), Refused)
    assert isinstance(storable(response, Rules(stores_streams=True)), Entry)


def test_what_belongs_to_one_exchange_is_not_stored() -> None:
    """Ids, cookies, dates of the proxy, CORS."""
    gone = ["Set-Cookie", "X-Request-ID", "X-Correlation-ID", "Access-Control-Allow-Origin", "X-Proxy-Received-At"]
    fields = (*((name, "x") for name in gone), ("X-Kept", "yes"))
    names = {name for name, _ in entry("public, max-age=60", fields=fields).fields}
    assert names.isdisjoint(gone)
    assert "X-Kept" in names


@pytest.mark.parametrize(
    ("asks", "after_s", "verdict"),
    [
        ("", 59, Verdict.SERVE),
        ("", 61, Verdict.VALIDATE),
        ("no-cache", 1, Verdict.VALIDATE),
        ("max-age=10", 9, Verdict.SERVE),
        ("max-age=10", 11, Verdict.VALIDATE),
        ("min-fresh=30", 20, Verdict.SERVE),
        ("min-fresh=30", 40, Verdict.VALIDATE),
        ("max-stale=30", 80, Verdict.SERVE),
        ("max-stale=30", 100, Verdict.VALIDATE),
        ("max-stale", 10_000, Verdict.SERVE),
    ],
)
def test_a_request_says_how_old_a_response_may_be(asks: str, after_s: float, verdict: Verdict) -> None:
    """RFC 9111 §5.2.1, against a response that is fresh for 60 s."""
    asked = request_directives([asks]) if asks else policy.NO_DIRECTIVES
    assert judge(entry("public, max-age=60"), asked, NOW + after_s) is verdict


def test_a_stale_response_is_served_while_it_is_fetched_again() -> None:
    """RFC 5861 §3, and not a second longer."""
    stored = entry("public, max-age=10, stale-while-revalidate=20")
    assert judge(stored, policy.NO_DIRECTIVES, NOW + 25) is Verdict.SERVE_AND_REFRESH
    assert judge(stored, policy.NO_DIRECTIVES, NOW + 31) is Verdict.VALIDATE


@pytest.mark.parametrize(
    ("cache_control", "status", "is_served"),
    [
        ("public, max-age=1, stale-if-error=60", 503, True),
        ("public, max-age=1, stale-if-error=60", None, True),
        ("public, max-age=1, stale-if-error=60", 404, False),
        ("public, max-age=1, stale-if-error=5", 503, False),
        ("public, max-age=1, must-revalidate, stale-if-error=60", 503, False),
        ("public, max-age=1", 503, False),
    ],
)
def test_an_error_may_be_answered_with_what_is_stale(cache_control: str, status: int | None, is_served: bool) -> None:
    """RFC 5861 §4; must-revalidate forbids it."""
    stored = entry(cache_control)
    assert policy.may_serve_on_error(stored, policy.NO_DIRECTIVES, status, NOW + 30) is is_served


@pytest.mark.parametrize(
    ("asks", "is_same"),
    [(['"a"'], True), (['W/"a"'], True), (['"b", "a"'], True), (["*"], True), (['"b"'], False), (['"b"', '"a"'], True)],
)
def test_tags_are_compared_weakly(asks: list[str], is_same: bool) -> None:
    """RFC 9110 §8.8.3.2, lists and repeated lines included."""
    stored = entry("public, max-age=60", fields=(("ETag", '"a"'),))
    assert is_not_modified(stored, asks, None) is is_same


@pytest.mark.parametrize(
    ("fields", "if_range", "is_same"),
    [
        ((("ETag", '"a"'),), '"a"', True),
        ((("ETag", '"a"'),), '"b"', False),
        ((("ETag", 'W/"a"'),), 'W/"a"', False),
        ((("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT"),), "Mon, 01 Jan 2024 00:00:00 GMT", True),
        ((("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT"),), "Mon, 01 Jan 2025 00:00:00 GMT", False),
        ((("Last-Modified", formatdate(NOW - 10, usegmt=True)),), formatdate(NOW - 10, usegmt=True), False),
        ((), None, True),
    ],
)
def test_a_part_is_served_only_of_what_the_client_has(
    fields: tuple[tuple[str, str], ...], if_range: str | None, is_same: bool
) -> None:
    """RFC 9110 §13.1.5: strongly compared; a date that may not have changed yet is none."""
    assert is_unchanged(entry("public, max-age=60", fields=fields), if_range) is is_same


def test_the_response_to_a_post_is_never_validated() -> None:
    """A provider that does as RFC 9110 §13.1.2 says would refuse the POST with 412."""
    stored = entry("public, max-age=60", fields=(("ETag", '"a"'),), asks="public, max-age=60", is_opted_in=True)
    assert conditions(stored) == []
    assert ("ETag", '"a"') in stored.fields


@pytest.mark.parametrize(
    ("lines", "age_s"),
    [(["7"], 7), (["7, 9"], 7), (["7", "0"], 7), (["9" * 20], 1 << 31), (["x"], None), (["-1"], None), (["1.0"], None)],
)
def test_an_age_is_its_first_number(lines: list[str], age_s: int | None) -> None:
    """RFC 9111 §5.1: of several the first; what is invalid is ignored."""
    assert age(lines) == age_s


@pytest.mark.parametrize(
    ("cache_control", "is_for_others"),
    [("public, max-age=9", True), ("public, max-age=0", False), ("public, max-age=0, stale-while-revalidate=9", True)],
)
def test_no_request_waits_for_what_it_could_not_have(cache_control: str, is_for_others: bool) -> None:
    """A response that is stored to be validated is of no use to requests at the same time."""
    assert policy.is_for_others(entry(cache_control, fields=(("ETag", '"a"'),))) is is_for_others


def test_a_304_makes_the_stored_response_fresh_again() -> None:
    """RFC 9111 §4.3.4: new fields, new lifetime, the old body and key."""
    stored = entry("public, max-age=1", fields=(("ETag", '"a"'), ("X-A", "old"))).with_content(b"body")
    response = ReceivedResponse(
        304, "Not Modified", (("Cache-Control", "public, max-age=90"), ("X-A", "new")), NOW + 9, NOW + 9
    )
    again = policy.freshened(stored, response, RULES)
    assert (again.content, again.lifetime_s, again.received_at) == (b"body", 90, NOW + 9)
    assert [value for name, value in again.fields if name == "X-A"] == ["new"]


def test_a_response_that_varies_by_everything_is_not_stored() -> None:
    """`Vary: *` forbids it, on any of several lines."""
    varies = (("Vary", "Accept"), ("Vary", "*"))
    assert isinstance(storable(received("public, max-age=60", fields=varies), RULES), Refused)


@pytest.mark.parametrize(
    "date",
    ["Thu, 18 Aug 2050 02:01:18 GMT", "THU, 18 AUG 2050 02:01:18 gMT", "Thursday, 18-Aug-50 02:01:18 GMT",
     "Thu Aug 18 02:01:18 2050"],
)  # fmt: skip
def test_the_three_forms_of_a_date(date: str) -> None:
    """RFC 9110 §5.6.7, in any case (RFC 9111 §4.2)."""
    assert instant(date) == 2544400878.0


@pytest.mark.parametrize(
    "date",
    ["0", "", "Thu, 18 Aug 2050 02:01:18 UTC", "Thu, 18 Aug 2050 02:01:18 AEST", "Thu, 18 Aug 50 02:01:18 GMT",
     "Thu 18 Aug 2050 02:01:18 GMT", "Thu, 18  Aug 2050 02:01:18 GMT", "Thu, 18-Aug-2050 02:01:18 GMT",
     "Thu, 18 Aug 2050 02.01.18 GMT", "Thu, 18 Aug 2050 2:01:18 GMT", "Thu, 31 Feb 2050 02:01:18 GMT",
     "Thu, 18 Aug 2050 24:01:18 GMT", "Thu, 18 Aug 2050 02:01:18 +0000", "2050-08-18T02:01:18Z", "Thu, 18 Aug 2050"],
)  # fmt: skip
def test_other_dates_are_in_the_past(date: str) -> None:
    """RFC 9111 §5.3: a response with such an Expires is stale at once."""
    assert instant(date) is None
    stored = entry("public", fields=(("Expires", date), ("ETag", '"a"')))
    assert stored.lifetime_s == 0


@pytest.mark.parametrize(
    ("targeted", "untargeted", "lifetime_s"),
    [
        ("public, max-age=60", "no-store", 60),
        ("public, s-maxage=90, max-age=60", "private", 90),
        ("public, max-age=60;a=1, foo", "max-age=1", 60),
        ("no-store", "public, max-age=60", None),
        ("private=?1", "public, max-age=60", None),
        ("private=?0, public, max-age=7", "no-store", 7),
        ('max-age="60"', "public, max-age=9", 9),
        ("max-age=60, &&&", "public, max-age=9", 9),
        ("max-age=60,", "public, max-age=9", 9),
        ("Max-Age=60", "public, max-age=9", 9),
        ("", "public, max-age=9", 9),
    ],
)
def test_a_targeted_field_goes_before_cache_control(targeted: str, untargeted: str, lifetime_s: int | None) -> None:
    """RFC 9213: a valid, non-empty CDN-Cache-Control stands for Cache-Control and Expires; else they count."""
    fields = (("CDN-Cache-Control", targeted), ("Expires", "Thu, 18 Aug 2050 02:01:18 GMT"))
    judged = storable(received(untargeted, fields=fields), RULES)
    assert (None if isinstance(judged, Refused) else judged.lifetime_s) == lifetime_s


@pytest.mark.parametrize(
    ("fields", "delay_s", "age_s"),
    [
        ([], 3.0, 3.0),
        ([("Age", "10")], 3.0, 13.0),
        ([("Age", "abc")], 3.0, 3.0),
        ([("Date", formatdate(NOW - 20, usegmt=True))], 3.0, 20.0),
        ([("Date", formatdate(NOW + 20, usegmt=True))], 0.0, 0.0),
    ],
    ids=["delay", "age and delay", "invalid age", "date", "date to come"],
)
def test_a_response_is_as_old_as_the_rfc_has_it(fields: list[tuple[str, str]], delay_s: float, age_s: float) -> None:
    """RFC 9111 §4.2.3: the larger of what Date and what Age and the provider's delay say."""
    given = (("Cache-Control", "public, max-age=60"), *fields)
    stored = storable(ReceivedResponse(200, "OK", given, NOW - delay_s, NOW), Rules())
    assert isinstance(stored, Entry)
    assert stored.initial_age_s == pytest.approx(age_s, abs=1)


def test_a_lifetime_that_the_request_asks_for_begins_with_the_response() -> None:
    """However long the model takes to give it."""
    asked = request_directives(["public, max-age=10"])
    stored = storable(ReceivedResponse(200, "OK", (), NOW - 30, NOW, asked, is_opted_in=True), Rules())
    assert isinstance(stored, Entry)
    assert (stored.lifetime_s, stored.initial_age_s) == (10.0, 0.0)
