"""The replacement of a token by one with the same limits, and what a revocation of several says of itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from llm_proxy.errors import Conflict, TokenInactive
from llm_proxy.tokens.token import NewToken, Token


@dataclass(frozen=True, slots=True)
class RevokedOnes:
    """Counts of a revocation of named tokens, and the ids that name no token of the caller's."""

    revoked: int
    already: int
    unknown: list[str]


def batch_details(tokens: Sequence[Token]) -> dict[str, Any]:
    """Return what the audit record says of tokens that are revoked together, as they were before."""
    revoked = sum(token.is_active for token in tokens)
    return {
        "total_tokens": len(tokens),
        "revoked_count": revoked,
        "already_revoked_count": len(tokens) - revoked,
        "token_ids": [token.id for token in tokens],
    }


def require_rollable(token: Token, now: datetime) -> None:
    """Raise Conflict for a token that is revoked or expired."""
    death = token.death(now)
    if death is not None:
        what = "been revoked" if death is TokenInactive else "expired"
        raise Conflict(f"token has {what} and cannot be rolled", code=death.code, audit={"error_type": death.code})


def alike(token: Token) -> NewToken:
    """Return what creates a token with the limits of another, that lives as long as the other was meant to."""
    span = None if token.expires_at is None else token.expires_at - token.created_at
    return NewToken(token.project_id, span, token.fields)


def ending(token: Token, now: datetime, overlap: timedelta) -> dict[str, Any]:
    """Return the columns of a token that ends after the overlap."""
    if not overlap:
        return {"is_active": False, "deactivated_at": now}
    end = now + overlap
    return {"expires_at": end if token.expires_at is None else min(end, token.expires_at)}
