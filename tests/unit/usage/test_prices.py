"""What usage costs, by the table of prices."""

from decimal import Decimal
from pathlib import Path

import pytest

from llm_proxy.formats.usage import Usage
from llm_proxy.settings import TokenSettings
from llm_proxy.usage.prices import Price, PricesFault, load_prices


def test_money_is_exact() -> None:
    """Decimals per million, in 10⁻⁹ USD; cached tokens have their own price."""
    price = Price(prompt=Decimal("2.50"), completion=Decimal("10"), cached=Decimal("1.25"))
    assert price.nano_usd(Usage(1000, 10, 400)) == 600 * 2500 + 400 * 1250 + 10 * 10_000


def test_a_dated_name_has_the_price_of_the_name_without() -> None:
    """And nothing else is guessed."""
    prices = load_prices(TokenSettings())
    assert prices.of("gpt-4o-mini-2024-07-18") == prices.of("gpt-4o-mini") is not None
    assert prices.of("gpt-4o-mini-next") is None


def test_a_price_file_that_cannot_be_used_names_what_is_wrong(tmp_path: Path) -> None:
    """File, model and member, all at once."""
    path = tmp_path / "prices.yaml"
    path.write_text("date: 2026-01-01\nmodels:\n  a: {prompt: -1}\n  b: {prompt: lots}\n")
    with pytest.raises(PricesFault) as caught:
        load_prices(TokenSettings(prices_file=path))
    assert "a" in str(caught.value)
    assert "prompt" in str(caught.value)
