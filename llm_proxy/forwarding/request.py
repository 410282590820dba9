"""What the proxy knows of a request: plain values, taken from the server's environment once."""

import ipaddress
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Protocol, cast
from urllib.parse import quote

from llm_proxy.forwarding.body import Plain, Source
from llm_proxy.runtime.ids import accepted_id, uuid7

Network = IPv4Network | IPv6Network
_ENDLESS = 1 << 62
_MAX_HOPS = 64  # proxies in a row that are believed; more would cost a request milliseconds
_PORT = re.compile(r"\]?:[0-9]+$")


class Client(Protocol):
    """The watch over the client's connection."""

    is_gone: bool

    def on_gone(self, callback: Callable[[], None]) -> None:
        """Call back, in the hub, when the client closes its connection. The callback must not wait."""

    def unwatch(self) -> None:
        """Stop watching."""


class ProxyRequest:
    """One request to the proxy.

    Attributes:
        method: As sent.
        target: The raw target in origin form, byte for byte (latin-1 text).
        path: The target up to its query, still encoded.
        query: What follows the first `?`; empty without one.
        fields: (NAME, value) in order, repetitions kept; names in upper case.
        values: NAME → value of the field's first line.
        content_length: Declared length; None without a body, or when it is chunked.
        is_chunked: Whether the body has no declared length.
        body: Reads the body; None when there is none.
        request_id: Taken from the client, or made.
        correlation_id: The same, independently of it.
        client_addr: Address of the client, proxies that are trusted left out; None on a Unix socket.
        received_s: Monotonic time of the first byte.
        received_at: The same as seconds since the epoch.
        client: The watch over the client's connection; None where the server has none.
    """

    __slots__ = (
        "body",
        "client",
        "client_addr",
        "content_length",
        "correlation_id",
        "fields",
        "is_chunked",
        "method",
        "path",
        "query",
        "received_at",
        "received_s",
        "request_id",
        "target",
        "values",
    )

    def __init__(
        self,
        method: str,
        target: str,
        fields: Sequence[tuple[str, str]],
        *,
        body: Source | None = None,
        client_addr: str | None = None,
        received_s: float | None = None,
        client: Client | None = None,
        values: dict[str, str] | None = None,
    ) -> None:
        now = time.monotonic()
        self.method, self.target, self.fields = method, target, fields
        self.path, _, self.query = target.partition("?")
        self.values = values = dict(reversed(fields)) if values is None else values
        self.is_chunked = "TRANSFER-ENCODING" in values
        length = values.get("CONTENT-LENGTH")
        self.content_length = int(length) if length and not self.is_chunked else None
        self.body = body if self.is_chunked or self.content_length else None
        self.request_id = accepted_id(values.get("X-REQUEST-ID")) or uuid7()
        self.correlation_id = accepted_id(values.get("X-CORRELATION-ID")) or uuid7()
        self.client_addr, self.client = client_addr, client
        self.received_s = now if received_s is None else received_s
        self.received_at = time.time() - (now - self.received_s)

    def again(self, without: Collection[str]) -> "ProxyRequest":
        """Return a GET of the same target in the client's name, without these fields, body and client.

        It has its own ids.
        """
        fields = [field for field in self.fields if field[0] not in without]
        return ProxyRequest("GET", self.target, fields, client_addr=self.client_addr)

    def remove_prefix(self, prefix: str) -> None:
        """Take a prefix that the path begins with off the target."""
        self.target = self.target[len(prefix) :]
        if not self.target.startswith("/"):
            self.target = f"/{self.target}"
        self.path, _, self.query = self.target.partition("?")

    def all(self, name: str) -> list[str]:
        """Values of all lines of a field, in order; `name` in upper case."""
        return [value for known, value in self.fields if known == name]

    @property
    def content_encoding(self) -> str | None:
        """All lines of Content-Encoding, joined; None where there is none."""
        return ", ".join(self.all("CONTENT-ENCODING")) if "CONTENT-ENCODING" in self.values else None


def client_address(peer: str | None, forwarded_for: Iterable[str], trusted: Sequence[Network]) -> str | None:
    """Return the client's address.

    The peer, unless it is a trusted proxy: then the right-most entry of X-Forwarded-For that is none. An entry that is
    no address ends the search: what is left of it comes from no trusted proxy.

    Args:
        peer: Address of the connection's other end; empty or None on a Unix socket, whose peer is a local proxy.
        forwarded_for: The field's lines, in order.
        trusted: TRUSTED_PROXIES.
    """
    if not is_trusted(peer, trusted):
        return peer or None
    found = peer or None
    entries = [entry.strip() for line in forwarded_for for entry in line.split(",")]
    for entry in entries[: -_MAX_HOPS - 1 : -1]:
        address = _bare(entry)
        if address is None:
            return found
        found = address
        if not _is_within(address, trusted):
            return found
    return found


def is_trusted(peer: str | None, trusted: Sequence[Network]) -> bool:
    """Whether the connection's other end is a trusted proxy; on a Unix socket it is one, where any is trusted."""
    return bool(trusted) and (not peer or _is_within(peer, trusted))


def _bare(entry: str) -> str | None:
    """Return an entry without brackets, port and zone, in canonical form, IPv4 as such; None when it is no address."""
    for text in (entry, _PORT.sub("", entry).lstrip("[")):
        try:
            address = ipaddress.ip_address(text.strip("[]").partition("%")[0])
        except ValueError:
            continue
        return str(getattr(address, "ipv4_mapped", None) or address)
    return None


def _is_within(address: str, networks: Sequence[Network]) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return any(parsed in network for network in networks)


def from_environ(environ: Mapping[str, Any], trusted: Sequence[Network] = ()) -> ProxyRequest:
    """Read a WSGI environment; the proxy's server's additions where they are, plain WSGI's joined fields elsewhere."""
    fields = environ.get("llm_proxy.fields")
    if fields is None:
        fields = joined_fields(environ)
    forwarded = [value for name, value in fields if name == "X-FORWARDED-FOR"] if trusted else ()
    return ProxyRequest(
        environ["REQUEST_METHOD"],
        environ.get("RAW_URI") or _rebuilt_target(environ),
        fields,
        body=_source(environ),
        client_addr=client_address(environ.get("REMOTE_ADDR"), forwarded, trusted),
        received_s=environ.get("llm_proxy.received"),
        client=environ.get("llm_proxy.client"),
        values=environ.get("llm_proxy.values"),
    )


def joined_fields(environ: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the fields that plain WSGI keeps: one line a name, repetitions joined."""
    fields = [(key[5:].replace("_", "-"), value) for key, value in environ.items() if key.startswith("HTTP_")]
    for key in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        if environ.get(key):
            fields.append((key.replace("_", "-"), environ[key]))
    return fields


def _source(environ: Mapping[str, Any]) -> Source:
    """Return the body; another server's `wsgi.input` may have no `read1` and no end."""
    source: Any = environ["wsgi.input"]
    if "llm_proxy.fields" in environ:
        return cast(Source, source)
    length = environ.get("CONTENT_LENGTH")
    return Plain(source, int(length) if length else _ENDLESS if environ.get("wsgi.input_terminated") else 0)


def _rebuilt_target(environ: Mapping[str, Any]) -> str:
    path = quote(
        environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "/"), safe="/:@!$&'()*+,;=~", encoding="latin-1"
    )
    query = environ.get("QUERY_STRING")
    return f"{path}?{query}" if query else path
