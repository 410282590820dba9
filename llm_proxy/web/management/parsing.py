"""What a call brings along: the body as a JSON object, query parameters, preconditions."""

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, time, timedelta
from typing import Any, NoReturn

from flask import request

from llm_proxy.errors import BadRequest, PayloadTooLarge, PreconditionFailed

BODY_BYTES = 1024 * 1024
MOST_IDS = 100
LONGEST_IDS = 4000  # characters
SEARCH_CHARACTERS = 200
_INTEGER = re.compile(r"\+?[0-9]{1,10}")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_INSTANT = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]+)?([Zz]|[+ -][0-9]{2}:[0-9]{2})"
)


def json_object() -> dict[str, Any]:
    """Return the body. Raises PayloadTooLarge, or BadRequest for anything that is not one JSON object in UTF-8."""
    try:
        found = json.loads(_body().decode(), parse_constant=_no_constant, parse_float=_finite)
        json.dumps(found, ensure_ascii=False).encode()  # a lone surrogate can be written in JSON, and stored nowhere
    except (ValueError, RecursionError) as error:
        raise _no_object(type(error).__name__) from error
    if not isinstance(found, dict):
        raise _no_object("not an object")
    return found


def raw_body() -> bytes:
    """Return the body as it came, read before (or now) by this module."""
    return _body()


def _body() -> bytes:
    if (request.content_length or 0) > BODY_BYTES:
        raise _too_large()
    cached: bytes | None = request.environ.get("llm_proxy.management_body")
    if cached is None:
        cached = request.stream.read(BODY_BYTES + 1)
        request.environ["llm_proxy.management_body"] = cached
    if len(cached) > BODY_BYTES:
        raise _too_large()
    return cached


def _too_large() -> PayloadTooLarge:
    return PayloadTooLarge(audit={"validation_error": "request body too large"})


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(text)
    return number


def _no_object(why: str) -> BadRequest:
    return BadRequest(audit={"validation_error": "invalid request body", "error": why})


def parameter(*names: str) -> str | None:
    """Return the first of these query parameters that is given and not empty."""
    for name in names:
        value = request.args.get(name, "")
        if value:
            return value
    return None


def invalid(name: str) -> BadRequest:
    """400 that names the parameter."""
    return BadRequest(f"invalid {name}", param=name, audit={"validation_error": f"invalid {name}"})


def integer(name: str, least: int, most: int) -> int | None:
    """Return a whole number within bounds; None when absent. Raises BadRequest."""
    if name not in request.args:
        return None
    text = request.args[name]
    if not _INTEGER.fullmatch(text) or not least <= int(text) <= most:
        raise invalid(name)
    return int(text)


def flag(*names: str) -> bool | None:
    """Return the flag of true or false, 1 or 0; None when absent. Raises BadRequest."""
    value = parameter(*names)
    if value is None:
        return None
    if value.lower() in ("true", "1"):
        return True
    if value.lower() in ("false", "0"):
        return False
    raise invalid(next(name for name in names if name in request.args))


def search() -> str | None:
    """Return the text looked for. Raises BadRequest beyond 200 characters, or for what no text holds."""
    text = parameter("search")
    if text is not None and (len(text) > SEARCH_CHARACTERS or "\x00" in text):
        raise invalid("search")
    return text


def ids() -> frozenset[str] | None:
    """Return the ids of the parameter `ids`, separated by commas; None when absent. Raises BadRequest for too many."""
    text = parameter("ids")
    if text is None:
        return None
    found = frozenset(each for each in text.split(",") if each)
    if len(found) > MOST_IDS or len(text) > LONGEST_IDS or "\x00" in text or not text.isascii():
        raise invalid("ids")
    return found


def word(*names: str) -> str | None:
    """Return a value that is compared exactly; a NUL, which PostgreSQL refuses, can match nothing and is replaced."""
    value = parameter(*names)
    return None if value is None else value.replace("\x00", "\ufffd")


def groups(allowed: Iterable[str]) -> list[str]:
    """Return what `group_by` names. Raises BadRequest."""
    named = [word.strip() for word in (parameter("group_by") or "").split(",") if word.strip()]
    if len(set(named)) != len(named) or not set(named) <= set(allowed):
        raise BadRequest(f"group_by must be a list of {', '.join(allowed)}", param="group_by")
    return named


def form() -> str:
    """Return the form of a table: `json` or `csv`. Raises BadRequest."""
    named = parameter("format") or "json"
    if named not in ("json", "csv"):
        raise BadRequest("format must be one of json, csv", param="format")
    return named


def instant(name: str, *, is_end: bool = False) -> datetime | None:
    """RFC 3339 with a zone, or a date; None when absent. Raises BadRequest.

    An end covers all of what it names: a date its whole UTC day, a time without a fraction its whole second.
    """
    text = parameter(name)
    if text is None:
        return None
    try:
        return _instant(text, is_end=is_end)
    except (ValueError, OverflowError) as error:
        raise invalid(name) from error


def _instant(text: str, *, is_end: bool) -> datetime:
    if _DATE.fullmatch(text):
        day = datetime.combine(datetime.fromisoformat(text).date(), time(), UTC)
        return day + timedelta(days=1, microseconds=-1) if is_end else day
    found = _INSTANT.fullmatch(text)
    if found is None:
        raise ValueError(text)
    date, clock, fraction, zone = found.groups()
    zone = "+00:00" if zone in "Zz" else zone.replace(" ", "+")  # a bare + in a query arrives as a blank
    at = datetime.fromisoformat(f"{date}T{clock}{(fraction or '')[:7]}{zone}").astimezone(UTC)
    return at + timedelta(microseconds=999_999) if is_end and fraction is None else at


def if_match(tag_of: Callable[[Any], str] | None) -> Callable[[Any], None]:
    """Return a check of `If-Match` against the stored object (RFC 9110 §13.1.1).

    Without the field, and for objects without a tag (`tag_of` is None), it accepts everything.
    """
    wanted = request.headers.get("If-Match")

    def check(stored: Any) -> None:
        if tag_of is None or wanted is None or wanted.strip() == "*":
            return
        if tag_of(stored) not in _tags(wanted):
            raise PreconditionFailed

    return check


def _tags(field: str) -> Sequence[str]:
    """Return the strong tags of a list; weak ones never match."""
    return [match[0] for match in re.finditer(r'(?<!W/)"[\x21\x23-\x7e\x80-\xff]*"', field)]
