"""How a setting is declared, and the forms that values have in the environment.

A parser takes the variable's text, without outer blanks and never empty, and returns the value, or raises ValueError
worded as what it accepts ("a duration such as 30s"), without the value: the caller words the fault and hides secrets.
"""

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Parser = Callable[[str], Any]
UNSET = object()  # in place of a value: as if the variable were not there


@dataclass(frozen=True, slots=True)
class Variable:
    """What is known about one environment variable.

    `empty` is the value that the empty text stands for; UNSET for nearly all, where it counts as not set.
    """

    env: str
    parse: Parser
    default: str | None
    help: str
    secret: bool = False
    empty: Any = UNSET


def setting(
    env: str, parse: Parser, default: str | None, help: str, *, secret: bool = False, empty: Any = UNSET
) -> Any:
    """Declare one variable as a dataclass field. `default` is written as in the environment; None means unset."""
    value = None if default is None else default if default == "" else parse(default)
    variable = Variable(env, parse, default, help, secret, empty)
    return field(default=value, repr=not secret, metadata={"variable": variable})


def text(value: str) -> str:
    """Any text."""
    return value


def boolean(value: str) -> bool:
    """1/0, t/f, true/false, yes/no, on/off in any case."""
    match value.lower():
        case "1" | "t" | "true" | "y" | "yes" | "on":
            return True
        case "0" | "f" | "false" | "n" | "no" | "off":
            return False
    raise ValueError("true or false")


def integer(least: int, most: int | None = None) -> Parser:
    """Parse a whole number within bounds, both included."""
    wanted = f"a whole number from {least} to {most}" if most is not None else f"a whole number of at least {least}"

    def parse(value: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", value):
            raise ValueError(wanted)
        number = int(value)
        if number < least or (most is not None and number > most):
            raise ValueError(wanted)
        return number

    return parse


def none_or(parse: Parser) -> Parser:
    """0, or what `parse` takes."""

    def either(value: str) -> Any:
        if value == "0":
            return 0
        try:
            return parse(value)
        except ValueError as error:
            raise ValueError(f"0, or {error}") from None

    return either


_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ns|us|µs|ms|s|m|h|d))+")
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ns|us|µs|ms|s|m|h|d)")
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def duration_s(value: str) -> float:
    """Seconds of a Go-style duration (`1h30m`, `250ms`), a bare number of seconds, or days (`7d`). Raises ValueError."""
    if re.fullmatch(r"[0-9]+(?:\.[0-9]+)?", value):
        return float(value)
    if not _DURATION.fullmatch(value):
        raise ValueError("a duration such as 30s, 5m or 1h30m")
    return sum(float(number) * _UNIT_S[unit] for number, unit in _DURATION_PART.findall(value))


def duration(least: str = "0s", most: str | None = None, *, zero: bool = False) -> Parser:
    """Parse a duration within bounds, both included; `zero` allows 0 (off, none) below `least`."""
    bounds = f"from {least} to {most}" if most is not None else f"of at least {least}"
    wanted = "a duration such as 30s, 5m or 1h30m, " + bounds + (", or 0" if zero else "")

    def parse(value: str) -> float:
        try:
            seconds = duration_s(value)
        except ValueError:
            raise ValueError(wanted) from None
        if zero and seconds == 0:
            return 0.0
        if seconds < duration_s(least) or (most is not None and seconds > duration_s(most)):
            raise ValueError(wanted)
        return seconds

    return parse


_SIZE_UNITS = {"": 1, "B": 1, "KB": 1024, "K": 1024, "KIB": 1024, "MB": 1024**2, "M": 1024**2, "MIB": 1024**2}
_SIZE_UNITS |= {"GB": 1024**3, "G": 1024**3, "GIB": 1024**3}


def size_bytes(value: str) -> int:
    """Bytes of `10MB`, `512KB`, `1GB` (×1024) or a bare number. Raises ValueError."""
    found = re.fullmatch(r"([0-9]{1,15})\s*([A-Za-z]*)", value)
    if found is None or found[2].upper() not in _SIZE_UNITS:
        raise ValueError("a size such as 1048576, 512KB, 10MB or 1GB")
    return int(found[1]) * _SIZE_UNITS[found[2].upper()]


def size(least: str = "0", most: str | None = None) -> Parser:
    """Parse a size within bounds, both included."""
    wanted = "a size such as 1048576, 512KB, 10MB or 1GB"
    wanted += f", from {least} to {most}" if most is not None else f", of at least {least}" if least != "0" else ""

    def parse(value: str) -> int:
        try:
            number = size_bytes(value)
        except ValueError:
            raise ValueError(wanted) from None
        if number < size_bytes(least) or (most is not None and number > size_bytes(most)):
            raise ValueError(wanted)
        return number

    return parse


def choice(*allowed: str, aliases: dict[str, str] | None = None) -> Parser:
    """One of a few words, in any case."""

    def parse(value: str) -> str:
        word = (aliases or {}).get(value.lower(), value.lower())
        if word not in allowed:
            raise ValueError("one of " + ", ".join(allowed))
        return word

    return parse


def words(value: str) -> tuple[str, ...]:
    """Parse a comma-separated list; blanks around items do not count, empty items are dropped."""
    return tuple(item.strip() for item in value.split(",") if item.strip())


def networks(value: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    """Parse a comma-separated list of addresses and CIDR networks."""
    try:
        return tuple(ipaddress.ip_network(item, strict=False) for item in words(value))
    except ValueError:
        raise ValueError("a comma list of addresses or networks such as 10.0.0.0/8") from None


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where a server listens: host and port, or the path of a Unix socket. An empty host means all addresses."""

    host: str = ""
    port: int = 0
    path: str | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def address(value: str) -> ListenAddress:
    """`:8080`, `host:port`, `[v6]:port`, `unix:/path`."""
    if value.startswith("unix:") and len(value) > len("unix:"):
        return ListenAddress(path=value.removeprefix("unix:"))
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]*)):([0-9]{1,5})", value)
    if found is None or int(found[3]) > 65535:
        raise ValueError("an address such as :8080, 127.0.0.1:8080, [::1]:8080 or unix:/path")
    return ListenAddress(host=found[1] or found[2] or "", port=int(found[3]))


def url(*schemes: str) -> Parser:
    """Parse an absolute URL of one of the schemes, without a fragment; a slash at its end is dropped."""

    def parse(value: str) -> str:
        try:
            parts = urlsplit(value)
            is_good = parts.scheme in schemes and bool(parts.hostname) and not parts.fragment and parts.port != 0
        except ValueError:
            is_good = False
        if not is_good or re.search(r"[\x00-\x20\x7f]", value):
            raise ValueError("a URL that starts with " + " or ".join(f"{scheme}://" for scheme in schemes))
        return value.rstrip("/")

    return parse


_parse_base_url = url("http", "https")


def named_urls(value: str) -> tuple[tuple[str, str], ...]:
    """Parse a comma list of NAME=URL."""
    try:
        return tuple((name.strip(), _parse_base_url(at.strip())) for name, _, at in map(_halves, words(value)))
    except ValueError:
        raise ValueError("a comma list of NAME=URL, such as azure=https://my-resource.openai.azure.com") from None


def _halves(item: str) -> tuple[str, str, str]:
    if not re.fullmatch(r"[^=\s]+=.+", item):
        raise ValueError
    return item.partition("=")


def key_bytes(value: str) -> bytes:
    """Parse standard base64 of exactly 32 bytes."""
    try:
        key = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != 32:
        raise ValueError("base64 of exactly 32 bytes; make one with: openssl rand -base64 32")
    return key


def key_list(value: str) -> tuple[bytes, ...]:
    """Parse a comma-separated list of keys, each as `key_bytes` takes it."""
    return tuple(key_bytes(item) for item in words(value))


def path_prefix(value: str) -> str:
    """Parse a URL path that starts with a slash; one at its end is dropped."""
    if not re.fullmatch(r"(?:/[A-Za-z0-9._~-]+)+/?", value):
        raise ValueError("a path such as /metrics")
    return value.rstrip("/")


def folder(value: str) -> Path:
    """Parse the path of an existing folder."""
    path = Path(value)
    if not path.is_dir():
        raise ValueError("an existing folder")
    return path


def file_path(value: str) -> Path:
    """Parse a file's path; its user finds out whether it can be used."""
    return Path(value)


def existing_file(value: str) -> Path:
    """Parse the path of an existing file."""
    path = Path(value)
    if not path.is_file():
        raise ValueError("an existing file")
    return path
