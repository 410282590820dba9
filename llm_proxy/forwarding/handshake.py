"""The handshake of a WebSocket (RFC 6455 §4): what the provider is asked, and how the client is answered."""

from typing import Any, Final, Protocol

from llm_proxy.errors import InvalidRequest, InvalidToken
from llm_proxy.forwarding.request import ProxyRequest
from llm_proxy.forwarding.request_checks import bearer_of
from llm_proxy.transport import UpstreamRequest

Fields = list[tuple[str, str]]
SWITCHING: Final = "101 Switching Protocols"
_CREDENTIAL: Final = "openai-insecure-api-key."  # browsers can set no field but this one
_EXTENSIONS, _PROTOCOL = "SEC-WEBSOCKET-EXTENSIONS", "SEC-WEBSOCKET-PROTOCOL"


class Switched(Protocol):
    """The provider's response after a 101."""

    def switched(self) -> tuple[Any, bytes]:
        """Return the connection, and what has come on it."""

    def close(self) -> None:
        """End the connection."""


def check_handshake(request: ProxyRequest) -> None:
    """Raise InvalidRequest for what is no handshake of version 13, or has a body."""
    if request.body is not None:
        raise InvalidRequest("A WebSocket handshake has no body")
    if request.values.get("SEC-WEBSOCKET-VERSION", "").strip() != "13":
        raise InvalidRequest("Only version 13 of WebSocket is spoken", param="Sec-WebSocket-Version")
    if not request.values.get("SEC-WEBSOCKET-KEY", "").strip():
        raise InvalidRequest("A WebSocket handshake has a key", param="Sec-WebSocket-Key")


def handshake_bearer(request: ProxyRequest, *, allows_subprotocol: bool) -> str:
    """Return the bearer of a handshake: the field Authorization, else, where that is allowed, a subprotocol's.

    Raises InvalidToken.
    """
    if "AUTHORIZATION" in request.values or not allows_subprotocol:
        return bearer_of(request.all("AUTHORIZATION"))
    found = [name.removeprefix(_CREDENTIAL) for name in _protocols(request) if name.startswith(_CREDENTIAL)]
    if len(found) != 1:
        raise InvalidToken(description="missing or invalid authorization header")
    return found[0]


def outgoing(request: ProxyRequest) -> Fields:
    """Return the client's fields without extensions (§9.1: frames must stay readable) and without credentials."""
    fields = [(name, value) for name, value in request.fields if name not in (_EXTENSIONS, _PROTOCOL)]
    protocols = [name for name in _protocols(request) if not name.startswith(_CREDENTIAL)]
    if protocols:
        fields.append((_PROTOCOL, ", ".join(protocols)))
    return fields


def upgraded(forward: UpstreamRequest) -> UpstreamRequest:
    """Return the request as one that asks for a WebSocket."""
    forward.fields += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    forward.is_upgrade = True
    return forward


def has_extension(fields: list[tuple[bytes, bytes]]) -> bool:
    """Return whether the provider agreed to an extension that it was not offered."""
    return any(name.upper() == _EXTENSIONS.encode() and value.strip() for name, value in fields)


def _protocols(request: ProxyRequest) -> list[str]:
    lines = request.all(_PROTOCOL)
    return [name.strip() for line in lines for name in line.split(",") if name.strip()]
