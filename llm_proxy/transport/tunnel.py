"""CONNECT through an HTTP proxy (RFC 9110 §9.3.6): from there on the connection is the origin's."""

from requests.exceptions import ProxyError

from llm_proxy.transport.errors import Broken
from llm_proxy.transport.exchange import Exchange
from llm_proxy.transport.head import read_head
from llm_proxy.transport.proxies import Proxy


def open_tunnel(x: Exchange, proxy: Proxy, host: str, port: int) -> None:
    """Have the proxy connect the exchange's socket to the origin.

    Raises:
        ProxyError: It will not. Nothing of its response is shown.
    """
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    request = f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n".encode("ascii")
    try:
        x.sock.sendall(request + proxy.authorization + b"\r\n")
        head, rest = read_head(x.recv, b"", "CONNECT")
    except (Broken, OSError) as exc:
        raise ProxyError(f"no response to CONNECT: {exc}") from exc
    if not 200 <= head.status < 300:
        raise ProxyError(f"the proxy answered {head.status} to CONNECT")
    if rest:
        raise ProxyError("the proxy sent bytes behind its response to CONNECT")
