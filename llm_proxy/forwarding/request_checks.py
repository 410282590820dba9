"""Checks of a request that need nothing but itself: its bearer, a wish to upgrade."""

from llm_proxy.errors import InvalidToken


def bearer_of(authorization: list[str]) -> str:
    """Return the bearer of a request's Authorization lines. Raises InvalidToken: none, several, or another scheme."""
    if len(authorization) == 1:
        scheme, _, bearer = authorization[0].strip().partition(" ")
        bearer = bearer.strip()
        if scheme.lower() == "bearer" and bearer:
            return bearer
    raise InvalidToken(description="missing or invalid authorization header")


def wants_websocket(upgrade: list[str]) -> bool:
    """Return whether WebSocket is among the protocols asked for; others may be ignored (RFC 9110 §7.8)."""
    protocols = (protocol for line in upgrade for protocol in line.split(","))
    return any(protocol.partition("/")[0].strip().lower() == "websocket" for protocol in protocols)
