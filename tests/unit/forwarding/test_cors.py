"""Preflight and real responses."""

import pytest

from llm_proxy.forwarding.cors import EXPOSED, OWN_NAMES, Cors

ORIGIN = "https://app.example"


def test_a_preflight_without_any_list_allows_every_origin() -> None:
    """The values that the contract names."""
    assert Cors(()).preflight(ORIGIN, None) == [
        ("Access-Control-Allow-Origin", "*"),
        ("Access-Control-Allow-Methods", "GET, POST, PUT, PATCH, DELETE, OPTIONS"),
        ("Access-Control-Allow-Headers", "Authorization, Content-Type, X-Requested-With"),
        (
            "Access-Control-Expose-Headers",
            "X-Request-ID, X-Proxy-ID, X-LLM-Proxy-Remote-Duration, X-LLM-Proxy-Remote-Duration-Ms",
        ),
        ("Access-Control-Max-Age", "86400"),
    ]


def test_a_preflight_grants_the_fields_that_it_asks_for() -> None:
    """Access-Control-Request-Headers is echoed."""
    assert ("Access-Control-Allow-Headers", "x-stainless-os") in Cors(()).preflight(ORIGIN, "x-stainless-os")


def test_a_listed_origin_is_echoed_and_others_get_no_permission() -> None:
    """With a list the response depends on Origin, and says so."""
    cors = Cors((ORIGIN,))
    assert ("Access-Control-Allow-Origin", ORIGIN) in cors.preflight(ORIGIN, None)
    assert "Access-Control-Allow-Origin" not in dict(cors.preflight("https://evil.example", None))
    assert ("Vary", "Origin") in cors.preflight("https://evil.example", None)


@pytest.mark.parametrize("origin", [None, ""])
def test_without_origin_there_is_nothing_to_say(origin: str | None) -> None:
    """Neither on a preflight nor on a real response."""
    assert Cors(()).preflight(origin, "x") == []
    assert Cors((ORIGIN,)).response(origin) == []


def test_the_settings_apply_where_the_provider_lists_nothing() -> None:
    """CORS_ALLOWED_*; the provider's list wins."""
    cors = Cors((), origins=(ORIGIN,), methods=("GET",), headers=("X-A",), max_age_s=60.0)
    assert dict(cors.preflight(ORIGIN, None)) == {
        "Access-Control-Allow-Origin": ORIGIN,
        "Access-Control-Allow-Methods": "GET",
        "Access-Control-Allow-Headers": "X-A",
        "Access-Control-Expose-Headers": OWN_NAMES,
        "Access-Control-Max-Age": "60",
        "Vary": "Origin",
    }
    assert "Access-Control-Allow-Origin" not in dict(cors.response("https://other.example"))
    assert ("Access-Control-Allow-Origin", ORIGIN) in Cors((ORIGIN,), origins=("https://x",)).response(ORIGIN)


def test_a_real_response_echoes_the_origin() -> None:
    """Errors included; the origin that was just refused gets nothing that its page could read."""
    assert Cors(()).response(ORIGIN) == [
        ("Access-Control-Allow-Origin", ORIGIN),
        ("Access-Control-Expose-Headers", EXPOSED),
        ("Vary", "Origin"),
    ]
    assert Cors((ORIGIN,)).response("https://evil.example") == [("Vary", "Origin")]


@pytest.mark.parametrize("name", ["x-should-retry", "Retry-After", "RateLimit", "x-ratelimit-reset-tokens", "*"])
def test_a_page_can_read_what_sdks_retry_by(name: str) -> None:
    """Exposed on real responses, where browsers look for it."""
    assert name in dict(Cors(()).response(ORIGIN))["Access-Control-Expose-Headers"].split(", ")
    assert EXPOSED.startswith(OWN_NAMES)
