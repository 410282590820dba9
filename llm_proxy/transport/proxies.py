"""The HTTP proxy that the environment names for an origin: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY."""

from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes, urlsplit

from requests.utils import get_environ_proxies, select_proxy

DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy; `authorization` is the whole `Proxy-Authorization` line with its CRLF, or empty."""

    host: str
    port: int
    authorization: bytes


def split_origin(origin: str) -> tuple[str, str, int]:
    """Scheme, host (without brackets) and port of `scheme://host[:port]`.

    Raises:
        ValueError: It is no such thing.
    """
    parts = urlsplit(origin)
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        raise ValueError("expected an origin such as https://host:443")
    return parts.scheme, parts.hostname, parts.port or DEFAULT_PORTS[parts.scheme]


def proxy_for(origin: str) -> Proxy | None:
    """Return the proxy for an origin by the environment of now; None for a direct connection.

    Raises:
        ValueError: The environment names one that is not supported; the text never shows its credentials.
    """
    url = select_proxy(origin, get_environ_proxies(origin))
    if not url:
        return None
    if "://" not in url:
        url = f"http://{url}"
    parts = urlsplit(url)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if parts.scheme.lower() != "http":
        raise ValueError(f"its proxy has the scheme {parts.scheme}, only http:// proxies are supported")
    if not host:
        raise ValueError("its proxy is no URL such as http://host:3128")
    authorization = b""
    if parts.username is not None:
        pair = unquote_to_bytes(parts.username) + b":" + unquote_to_bytes(parts.password or "")
        authorization = b"Proxy-Authorization: Basic " + b64encode(pair) + b"\r\n"
    return Proxy(host, port or 80, authorization)


def check_proxies(origins: Iterable[str]) -> list[str]:
    """Return what is wrong with the proxies that the environment names for these origins; a line each."""
    faults = []
    for origin in origins:
        try:
            proxy_for(origin)
        except ValueError as exc:
            faults.append(f"HTTPS_PROXY/HTTP_PROXY/ALL_PROXY for {origin}: {exc}")
    return faults
