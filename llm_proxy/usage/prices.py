"""What model tokens cost: a dated file of decimals per 1,000,000 tokens."""

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from llm_proxy.formats.usage import Usage
from llm_proxy.money import NANO
from llm_proxy.runtime.faults import Faults
from llm_proxy.settings import TokenSettings

_PER_TOKEN = Decimal(NANO) / 1_000_000
_DATED = re.compile(r"(.+)-[0-9]{4}-[0-9]{2}-[0-9]{2}")
_MOST = Decimal(1_000_000)
_AMOUNTS = ("prompt", "cached", "completion")


class PricesFault(Faults):
    """The file cannot be used; one line for an operator each."""

    separator = "; "


@dataclass(frozen=True, slots=True)
class Price:
    """USD per 1,000,000 tokens."""

    prompt: Decimal
    completion: Decimal
    cached: Decimal

    def nano_usd(self, usage: Usage) -> int:
        """Return what that usage costs, in 10⁻⁹ USD, half a unit rounded up."""
        fresh = usage.prompt_tokens - usage.cached_tokens
        cost = fresh * self.prompt + usage.cached_tokens * self.cached + usage.completion_tokens * self.completion
        return int((cost * _PER_TOKEN).to_integral_value(ROUND_HALF_UP))


class Prices:
    """Prices by model name. `date` is the day that they are of."""

    def __init__(self, by_model: Mapping[str, Price], date: datetime.date) -> None:
        self._by_model, self.date = dict(by_model), date

    def of(self, model: str | None, provider: str = "") -> Price | None:
        """Return a model's price; a name that ends in a date has that of the name without it. None: it has none.

        `provider`: an entry `PROVIDER/MODEL` goes before the model's own.
        """
        if not model:
            return None
        if provider and (own := self.of(f"{provider}/{model}")) is not None:
            return own
        found = self._by_model.get(model)
        if found is None and (dated := _DATED.fullmatch(model)):
            found = self._by_model.get(dated[1])
        return found

    def dearest(self, provider: str = "") -> Price | None:
        """Return a price that no model's exceeds, of the provider's own entries where it has any. None: no list."""
        own = [price for name, price in self._by_model.items() if name.startswith(f"{provider}/")] if provider else []
        known = own or list(self._by_model.values())
        if not known:
            return None
        return Price(*(max(getattr(price, amount) for price in known) for amount in ("prompt", "completion", "cached")))

    def __len__(self) -> int:
        return len(self._by_model)


def load_prices(settings: TokenSettings) -> Prices:
    """PRICES_FILE, or the packaged file. Raises PricesFault naming file, model and member."""
    path = settings.prices_file
    if path is None:
        return _packaged()
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PricesFault([f"PRICES_FILE={path}: cannot be read"]) from error
    return parse(text, f"PRICES_FILE={path}")


def fault_lines(settings: TokenSettings) -> list[str]:
    """Return what is wrong with the file; empty when nothing is."""
    try:
        load_prices(settings)
    except PricesFault as fault:
        return fault.faults
    return []


@lru_cache(maxsize=1)
def _packaged() -> Prices:
    return parse((files("llm_proxy.usage") / "prices.yaml").read_text(encoding="utf-8"), "prices.yaml")


class _TextLoader(yaml.SafeLoader):
    """Numbers stay text: a price must not pass through a float."""


_TextLoader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if tag not in ("tag:yaml.org,2002:float", "tag:yaml.org,2002:int")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse(text: str, name: str) -> Prices:
    """Prices out of YAML text. Raises PricesFault."""
    try:
        document = yaml.load(text, Loader=_TextLoader)  # noqa: S506  (a SafeLoader)
    except yaml.YAMLError as error:
        raise PricesFault([f"{name}: is no YAML"]) from error
    if not isinstance(document, dict) or not isinstance(document.get("models"), dict):
        raise PricesFault([f"{name}: expected `date` and `models`"])
    date, faults = document.get("date"), list[str]()
    if isinstance(date, datetime.datetime) or not isinstance(date, datetime.date):
        faults.append(f"{name}: date: expected a day such as 2026-01-31")
    if document.get("currency", "USD") != "USD":
        faults.append(f"{name}: currency: expected USD")
    by_model: dict[str, Price] = {}
    for model, amounts in document["models"].items():
        try:
            by_model[str(model)] = _price(amounts)
        except ValueError as error:
            faults.append(f"{name}: models.{model}: {error}")
    if faults:
        raise PricesFault(faults)
    assert isinstance(date, datetime.date)
    return Prices(by_model, date)


def _price(amounts: Any) -> Price:
    if not isinstance(amounts, dict) or not set(amounts) <= set(_AMOUNTS):
        raise ValueError(f"expected {', '.join(_AMOUNTS)}, in USD per 1,000,000 tokens")
    if "prompt" not in amounts:
        raise ValueError("prompt: is missing")
    prompt = _amount("prompt", amounts["prompt"])
    completion = _amount("completion", amounts.get("completion", "0"))
    cached = _amount("cached", amounts["cached"]) if "cached" in amounts else prompt
    return Price(prompt, completion, cached)


def _amount(name: str, value: Any) -> Decimal:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9]{1,7}(?:\.[0-9]{1,9})?", value) or Decimal(value) > _MOST:
        raise ValueError(f"{name}: expected a decimal such as 2.50")
    return Decimal(value)
