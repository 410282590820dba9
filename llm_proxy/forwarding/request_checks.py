"""Checks of a request that need nothing but itself: its bearer, its query, a wish to upgrade."""

from urllib.parse import unquote_plus

from llm_proxy.errors import InvalidToken, TokenInQuery
from llm_proxy.tokens.bearer import is_in


def bearer_of(authorization: list[str]) -> str:
    """Return the bearer of a request's Authorization lines. Raises InvalidToken: none, several, or another scheme."""
    if len(authorization) == 1:
        scheme, _, bearer = authorization[0].strip().partition(" ")
        bearer = bearer.strip()
        if scheme.lower() == "bearer" and bearer:
            return bearer
    raise InvalidToken(description="missing or invalid authorization header")


def check_query(query: str) -> None:
    """Raise TokenInQuery, naming the parameter that holds a token of this proxy."""
    for pair in query.split("&"):
        if is_in(unquote_plus(pair)):
            raise TokenInQuery(param=shown_name(pair.partition("=")[0]))


def shown_name(raw: str) -> str:
    """Return a parameter's name as it may be shown; the token itself can stand there."""
    name = unquote_plus(raw)
    return "query" if is_in(name) else name[:64]


def wants_websocket(upgrade: list[str]) -> bool:
    """Return whether WebSocket is among the protocols asked for; others may be ignored (RFC 9110 §7.8)."""
    protocols = (protocol for line in upgrade for protocol in line.split(","))
    return any(protocol.partition("/")[0].strip().lower() == "websocket" for protocol in protocols)
