"""dispatcher.retry and the classes of responses."""

import email.utils
import time

import pytest

from llm_proxy.dispatcher.backends.base import Result, Verdict
from llm_proxy.dispatcher.backends.http import Reply, retry_after_s, verdict_of
from llm_proxy.dispatcher.retry import backoff_s, pause_s


@pytest.mark.parametrize(("attempt", "expected"), [(0, 1.0), (1, 2.0), (2, 4.0), (5, 30.0), (500, 30.0)])
def test_the_back_off_doubles_up_to_30_seconds(attempt: int, expected: float) -> None:
    """1, 2, 4, … times the base, ± 20 %."""
    assert backoff_s(attempt, 1.0, lambda: 0.5) == pytest.approx(expected)
    assert backoff_s(attempt, 1.0, lambda: 0.0) == pytest.approx(expected * 0.8)
    assert backoff_s(attempt, 1.0, lambda: 1.0) == pytest.approx(expected * 1.2)


def test_what_a_service_asks_for_comes_first() -> None:
    """The longest Retry-After of a batch."""
    results = [Result(Verdict.TRANSIENT, "", 3.0), Result(Verdict.TRANSIENT, "", 7.0), Result(Verdict.TRANSIENT)]
    assert pause_s(results, 0, 1.0) == 7.0


@pytest.mark.parametrize(
    ("value", "expected"),
    [("5", 5.0), ("0", 0.0), ("-1", 0.0), ("999999", 300.0), ("soon", None), ("", None), (None, None), ("nan", None)],
)
def test_retry_after_as_seconds(value: str | None, expected: float | None) -> None:
    """Bounded to 5 minutes; nonsense does not count."""
    assert retry_after_s(value) == expected


def test_retry_after_as_a_date() -> None:
    """Seconds from now."""
    assert retry_after_s(email.utils.formatdate(time.time() + 20, usegmt=True)) == pytest.approx(20, abs=2)


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ((0, 408, 425, 429, 500, 502, 503, 504, 599), Verdict.TRANSIENT),
        ((400, 413, 415, 422, 405, 409), Verdict.PERMANENT),
        ((301, 302, 307, 401, 402, 403, 404), Verdict.CONFIGURATION),
    ],
)
def test_classes_of_responses(statuses: tuple[int, ...], expected: Verdict) -> None:
    """As documented."""
    assert {verdict_of(status) for status in statuses} == {expected}


def test_a_reply_knows_what_it_means() -> None:
    """Status, wait and whether the whole call was refused."""
    found = Reply(503, headers={"Retry-After": "2"}).result(is_whole=True)
    assert found == Result(Verdict.TRANSIENT, "HTTP 503", 2.0, is_whole=True)
