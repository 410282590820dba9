"""A setting's value in the form in which it is written, for people: `config show`, and texts that name a value."""

from typing import Any

from llm_proxy.settings.redis_address import without_password
from llm_proxy.settings.schema import Settings, variables

_UNITS_S = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))
_UNITS_BYTES = ((1024**3, "GB"), (1024**2, "MB"), (1024, "KB"))


def shown(settings: Settings, path: str) -> str:
    """Return the value of attribute `name`; a secret's is only `set` or `unset`."""
    value, variable = settings.value(path), variables()[path]
    if variable.secret:
        return "set" if value else "unset"
    try:
        variable.parse(_shown(path, value))
    except ValueError:  # a number without units, a default that names no existing file
        return "unset" if value is None else str(value)
    return without_password(_shown(path, value))


def _shown(path: str, value: Any) -> str:
    match value:
        case None:
            return "unset"
        case bool():
            return "true" if value else "false"
        case float() if path.endswith("_s"):
            return as_duration(value)
        case int() if path.endswith("_bytes"):
            return as_size(value)
        case tuple():
            return ",".join(str(item) for item in value)
        case _:
            return str(value)


def as_duration(seconds: float) -> str:
    """`1h30m`, `75s` as `1m15s`, `250ms`; 0 is `0s`."""
    if seconds != int(seconds):
        return f"{seconds * 1000:g}ms" if seconds < 1 else f"{seconds:g}s"
    left, text = int(seconds), ""
    for unit_s, unit in _UNITS_S:
        number, left = divmod(left, unit_s)
        text += f"{number}{unit}" if number else ""
    return text or "0s"


def as_size(number: int) -> str:
    """`32MB`, where it is a whole number of units; else plain bytes."""
    for unit_bytes, unit in _UNITS_BYTES:
        if number >= unit_bytes and number % unit_bytes == 0:
            return f"{number // unit_bytes}{unit}"
    return str(number)
