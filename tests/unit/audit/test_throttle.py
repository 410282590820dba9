"""How many records of refusals are written, whatever addresses they come from."""

import pytest
from support.clock import Clock

from llm_proxy.audit.record import AuditEvent
from llm_proxy.audit.throttle import PER_MINUTE, SERVER_PER_MINUTE, Throttle


def refusal(number: int, action: str = "token.access") -> AuditEvent:
    """A refusal of the client with this number."""
    address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    return AuditEvent(action, "anonymous", "denied", client_ip=address, details={"reason": "token_not_found"})


def suppressed(events: list[AuditEvent]) -> int:
    """How many events those stand for that are summaries."""
    return sum(int((event.details or {}).get("suppressed", 0)) for event in events)


@pytest.mark.parametrize("repeats", [1, PER_MINUTE + 1], ids=["once each", "too often each"])
def test_no_number_of_addresses_passes_the_budget_of_all(monkeypatch: pytest.MonkeyPatch, repeats: int) -> None:
    """More addresses than are watched at once: 300 records a minute, summaries included, and all are accounted for."""
    monkeypatch.setattr("llm_proxy.audit.throttle._MAX_SOURCES", 100)
    throttle, addresses = Throttle(Clock(0.0), SERVER_PER_MINUTE), 700
    out = [event for number in range(addresses) for _ in range(repeats) for event in throttle.passed(refusal(number))]
    assert len(out) == SERVER_PER_MINUTE
    rest = throttle.rest()
    assert len(rest) == 1
    written = [event for event in out if not suppressed([event])]
    assert len(written) + suppressed(out + rest) == addresses * repeats


def test_the_next_minute_has_a_budget_again() -> None:
    """After one event that tells how many were left out."""
    clock = Clock(0.0)
    throttle = Throttle(clock, 10)
    assert sum(len(throttle.passed(refusal(number))) for number in range(30)) == 10
    assert throttle.ended() == []
    clock.now = 61.0
    (summary,) = throttle.ended()
    assert (summary.details, summary.client_ip) == ({"reason": "suppressed", "suppressed": 20}, None)
    assert len(throttle.passed(refusal(1))) == 1


def test_a_summary_of_an_address_is_within_the_budget_of_all() -> None:
    """One that does not fit is counted with the others."""
    clock = Clock(0.0)
    throttle = Throttle(clock, PER_MINUTE)
    for _ in range(PER_MINUTE + 5):
        throttle.passed(refusal(1))
    rest = throttle.rest()
    assert [(event.client_ip, suppressed([event])) for event in rest] == [(None, 5)]
