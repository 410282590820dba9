"""Connection strings as users have them: PostgreSQL and MySQL URLs, libpq text, Go DSNs.

Only the form is read here; what the options mean is `postgres`'s and `mysql`'s to say. A fault never repeats the
string, because it holds a password.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import unquote

from llm_proxy.db.errors import DatabaseFault

_QUERY = re.compile(r"[^=&?@/]+=[^&]*(?:&[^=&?@/]+=[^&]*)*&?")
_SCHEME = re.compile(r"([a-z][a-z0-9+.]*)://", re.IGNORECASE)
_HOSTS = re.compile(r"[A-Za-z0-9._~%:,\[\]-]*")
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^:\[\]]*))(?::([0-9]+))?")
_GO_ADDRESS = re.compile(r"([a-z0-9]*)(?:\(([^()]*)\))?", re.IGNORECASE)
_SCHEMES = {
    "postgres": "postgres",
    "postgresql": "postgres",
    "postgresql+psycopg2": "postgres",
    "mysql": "mysql",
    "mysql+pymysql": "mysql",
    "mariadb": "mysql",
    "mariadb+pymysql": "mysql",
}


class UrlFault(DatabaseFault):
    """DATABASE_URL asks for what can't be honoured, or cannot be read; the message names the part, never the value."""

    def __init__(self, what: str) -> None:
        super().__init__(f"DATABASE_URL: {what}")


class OptionFault(UrlFault):
    """The server, or its driver, does not take an option or its value; no retry cures it."""

    def __init__(self, name: str) -> None:
        super().__init__(f"option {name} is not accepted by the database server")


@dataclass(frozen=True, slots=True)
class Address:
    """A connection string, taken apart.

    Attributes:
        driver: `postgres` or `mysql`.
        hosts: (host, port) in order; no host, or port 0, means the driver's default. Sockets: `socket`.
        user, password, database: None when absent.
        options: What followed `?`, names as written, in order.
    """

    driver: str
    hosts: tuple[tuple[str, int], ...] = ()
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    database: str | None = None
    socket: str | None = None
    options: tuple[tuple[str, str], ...] = ()


def parse(text: str) -> Address:
    """Take a connection string of any accepted form apart. Raises UrlFault."""
    text = text.strip()
    found = _SCHEME.match(text)
    if found is not None:
        driver = _SCHEMES.get(found[1].lower())
        if driver is None:
            raise UrlFault(f"expected a scheme of {', '.join(sorted(_SCHEMES))}")
        return _url(driver, text[found.end() :])
    if re.match(r"\s*[a-z_]+\s*=", text):
        return _libpq(text)
    return _go(text)


def _url(driver: str, rest: str) -> Address:
    """`user:password@host[:port][,host…]/database?options`, the password with any character."""
    before, options = _split_query(rest, _is_url_head)
    userinfo, _, place = before.rpartition("@")
    place, slash, database = place.partition("/")
    if not _HOSTS.fullmatch(place):
        raise UrlFault("expected user:password@host:port/database; the host holds a character that no host has")
    user, colon, password = userinfo.partition(":")
    return Address(
        driver,
        hosts=tuple(_host(item) for item in place.split(",")) if place else (),
        user=unquote(user) or None,
        password=unquote(password) if colon else None,
        database=unquote(database) or None if slash else None,
        options=options,
    )


def _is_url_head(head: str) -> bool:
    """Whether what stands before a `?` can be all of authority and path."""
    place = head.rpartition("@")[2]
    return _HOSTS.fullmatch(place.partition("/")[0]) is not None


def _split_query(text: str, is_head: Callable[[str], bool]) -> tuple[str, tuple[tuple[str, str], ...]]:
    """At the first `?` that can begin the options; one inside a password can't."""
    marks = [index for index, character in enumerate(text) if character == "?"]
    for mark in marks:
        head, query = text[:mark], text[mark + 1 :]
        at_is_behind = "@" in query and "@" not in head  # then the mark is in the userinfo
        if is_head(head) and not at_is_behind and (not query or _QUERY.fullmatch(query)):
            return head, _options(query)
    if marks and is_head(text[: marks[-1]]) and "@" not in text[marks[-1] :]:
        raise UrlFault("expected options as name=value, joined by &")
    return text, ()


def _options(query: str) -> tuple[tuple[str, str], ...]:
    pairs = [item.partition("=") for item in query.split("&") if item]
    options = [(unquote(name), unquote(value)) for name, _, value in pairs]
    names = [name for name, _ in options]
    for name in names:
        if names.count(name) > 1:
            raise UrlFault(f"option {name} is given twice")
    return tuple(options)


def _host(item: str) -> tuple[str, int]:
    found = _HOST.fullmatch(item)
    if found is None or int(found[3] or 0) > 65535:
        raise UrlFault("expected hosts as name:port or [address]:port")
    return unquote(found[1] or found[2] or ""), int(found[3] or 0)


def _libpq(text: str) -> Address:
    """`host=… dbname=…`, quoted as libpq has it."""
    import psycopg2  # 5 MiB, for PostgreSQL alone
    from psycopg2.extensions import parse_dsn

    try:
        words = dict(parse_dsn(text))
    except psycopg2.ProgrammingError as error:
        raise UrlFault("expected key=value words as libpq reads them") from error
    hosts, ports = words.pop("host", ""), words.pop("port", "")
    return Address(
        "postgres",
        hosts=_pairs(hosts.split(","), ports.split(",")) if hosts or ports else (),
        user=words.pop("user", None),
        password=words.pop("password", None),
        database=words.pop("dbname", None),
        options=tuple(words.items()),
    )


def _pairs(hosts: list[str], ports: list[str]) -> tuple[tuple[str, int], ...]:
    if len(ports) == 1:
        ports *= len(hosts)
    if len(hosts) != len(ports) or not all(port.isdigit() or not port for port in ports):
        raise UrlFault("expected as many ports as hosts")
    return tuple((host, int(port or 0)) for host, port in zip(hosts, ports, strict=True))


def _go(text: str) -> Address:
    """`user:password@tcp(host:port)/database?options`: the password is as it stands."""
    before, options = _at_last_slash(text) or _split_query(text, _is_go_head)
    left, slash, database = before.rpartition("/")
    if not slash:
        raise UrlFault("expected a URL, or user:password@tcp(host:port)/database")
    userinfo, at, place = left.rpartition("@")
    user, colon, password = userinfo.partition(":")
    found = _GO_ADDRESS.fullmatch(place)
    if found is None or (place and found[1].lower() not in ("tcp", "unix")):
        raise UrlFault("expected the address as tcp(host:port) or unix(/path)")
    is_socket = found[1].lower() == "unix"
    if is_socket and not found[2]:
        raise UrlFault("expected the socket as unix(/path)")
    return Address(
        "mysql",
        hosts=() if is_socket else (_host(found[2] or ""),),
        user=user or None if at else None,
        password=password if at and colon else None,
        database=unquote(database) or None,
        socket=found[2] if is_socket else None,
        options=options,
    )


def _at_last_slash(text: str) -> tuple[str, tuple[tuple[str, str], ...]] | None:
    """As Go's driver splits it, whatever the password looks like; None where an option's value holds a slash."""
    left, slash, place = text.rpartition("/")
    database, _, query = place.partition("?")
    before = f"{left}{slash}{database}"
    return (before, _options(query)) if _is_go_head(before) and (not query or _QUERY.fullmatch(query)) else None


def _is_go_head(head: str) -> bool:
    left, slash, database = head.rpartition("/")
    place = left.rpartition("@")[2]
    return bool(slash) and "@" not in database and _GO_ADDRESS.fullmatch(place) is not None
