"""Where a Redis is, in the forms that REDIS_ADDR and REDIS_CACHE_URL may have."""

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit


@dataclass(frozen=True, slots=True)
class RedisTarget:
    """Where Redis is and how to get in. `ca` is the path of a CA bundle, None = the system's."""

    host: str
    port: int
    db: int
    username: str | None
    password: str | None
    is_tls: bool
    ca: str | None

    def __str__(self) -> str:
        """Scheme, host, port and database: never a name or password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.is_tls else 'redis'}://{host}:{self.port}/{self.db}"

    def __repr__(self) -> str:
        return f"RedisTarget({self})"


def parse_address(address: str) -> RedisTarget:
    """`host`, `host:port`, `[v6]:port`, or a `redis://` or `rediss://` URL. Raises ValueError."""
    if "://" in address:
        return _parse_url(address)
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{1,5}))?", address)
    if found is None or not 0 < int(found[3] or 6379) < 65536:
        raise ValueError("host:port, or a redis:// or rediss:// URL")
    return RedisTarget(found[1] or found[2], int(found[3] or 6379), 0, None, None, False, None)


def _parse_url(address: str) -> RedisTarget:
    wanted = "host:port, or a URL such as redis://user:password@host:6379/0"
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        raise ValueError(wanted) from None
    path = parts.path.strip("/")
    options = dict(parse_qsl(parts.query))
    number = path or options.get("db", "0")
    if parts.scheme not in ("redis", "rediss") or not parts.hostname or not re.fullmatch(r"[0-9]{1,6}", number):
        raise ValueError(wanted)
    return RedisTarget(
        host=parts.hostname,
        port=port or 6379,
        db=int(number),
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        is_tls=parts.scheme == "rediss",
        ca=options.get("ssl_ca_certs"),
    )


def redis_address(value: str) -> str:
    """Return the text of an address that `parse_address` takes, as it was given. Raises ValueError."""
    parse_address(value)
    return value


def without_password(text: str) -> str:
    """Return the text with the password of a URL in it hidden."""
    return re.sub(r"(://[^/@:]*:)[^@]+@", r"\1***@", text)
