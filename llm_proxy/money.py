"""Limits and budgets as callers write them, and money as it is kept: in 10⁻⁹ USD."""

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from llm_proxy.errors import BadRequest

NANO: Final = 1_000_000_000
MAX_INTEGER: Final = 2_147_483_647
MAX_MODEL_TOKENS: Final = 2**53 - 1  # what JSON's numbers hold everywhere
_MAX_USD = Decimal(1_000_000_000)
_MONEY = re.compile(r"[0-9]{1,10}(?:\.[0-9]{1,6})?")


def whole(wanted: Mapping[str, Any], name: str, most: int = MAX_INTEGER) -> int | None:
    """Return a whole number of at least 1; null and absent = off. Raises BadRequest naming the field."""
    value = wanted.get(name)
    if value is None:
        return None
    if type(value) is not int or not 1 <= value <= most:
        raise _refused(f"{name} must be 1 to {most}", name)
    return value


def nano_usd(wanted: Mapping[str, Any], name: str) -> int | None:
    """Money, a number or a decimal as text, in 10⁻⁹ USD; null and absent = off. Raises BadRequest naming the field."""
    value = wanted.get(name)
    if value is None:
        return None
    amount = _decimal(value)
    if amount is None or not 0 < amount <= _MAX_USD or amount != amount.quantize(Decimal("1e-6")):
        raise _refused(f"{name} must be more than 0 and at most 1000000000, with at most 6 decimals", name)
    return int(amount * NANO)


def usd(nano: int | None) -> int | float | None:
    """Money as it is shown: a JSON number, whole where it can be."""
    if nano is None:
        return None
    return nano // NANO if nano % NANO == 0 else nano / NANO


def decimal_text(nano: int | None) -> str | None:
    """Money as exact text, without zeros at its end."""
    if nano is None:
        return None
    text = f"{Decimal(nano) / NANO:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _decimal(value: Any) -> Decimal | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        return Decimal(value) if _MONEY.fullmatch(value) else None
    if not isinstance(value, int | float):
        return None
    try:
        amount = Decimal(repr(value))  # the shortest text that means this number: what was written
    except InvalidOperation:
        return None
    return amount if amount.is_finite() and amount <= _MAX_USD else None


def _refused(message: str, param: str) -> BadRequest:
    return BadRequest(message, param=param, audit={"validation_error": message})
