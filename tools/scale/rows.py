"""Rows of a large installation: projects, tokens, audit records in chains, a year of usage, a month of outcomes."""

import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from llm_proxy.audit.chain import START, Link, chained_row
from llm_proxy.audit.record import AuditEvent
from llm_proxy.crypto import digest
from llm_proxy.tokens.bearer import hint, new_bearer

_CODES = ("ok", "ok", "ok", "cache_hit", "quota_exceeded", "client_disconnect")
_MODELS = ("gpt-4o", "gpt-4o-mini", "o3", "text-embedding-3-small")
_ACTIONS = ("token.create", "token.list", "proxy_request", "project.list", "token.revoke")
_PATHS = ("/v1/chat/completions", "/v1/embeddings", "/manage/tokens", "/manage/projects")
_PRIME = 7_919  # spreads what belongs to one project over time

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much there is.

    Attributes:
        expired: Of the tokens, how many have expired and are not revoked yet.
        writers: Chains of the audit records; each worker that ever ran has one.
    """

    projects: int = 500
    tokens: int = 100_000
    expired: int = 15_000
    audit: int = 1_000_000
    audit_days: int = 120
    usage_days: int = 365
    outcome_days: int = 30
    writers: int = 9


class Installation:
    """The rows, by table. One seed gives the same rows but for ids and instants, which follow `now`."""

    def __init__(self, sizes: Sizes, now: datetime | None = None) -> None:
        self._sizes, self._now = sizes, now or datetime.now(UTC)
        self._random = random.Random(1)
        self._projects = [self._id() for _ in range(sizes.projects)]
        self._tokens = [self._id() for _ in range(sizes.tokens)]

    def _id(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def _owner(self, number: int) -> str:
        """Return a token's project: a tenth of all tokens is in the first one."""
        return self._projects[0 if number % 10 == 0 else number % len(self._projects)]

    def projects(self) -> Iterator[Row]:
        """Yield projects; their keys are stored unsealed and are good nowhere."""
        for number, project_id in enumerate(self._projects):
            at = self._now - timedelta(days=400, minutes=-number)
            yield {
                "id": project_id,
                "name": f"team {number:04d} {('search', 'billing', 'support')[number % 3]}",
                "api_key": "sk-none",
                "is_active": number % 20 != 19,
                "created_at": at,
                "updated_at": at + timedelta(days=number % 300),
            }

    def tokens(self) -> Iterator[Row]:
        """Yield tokens: the expired ones first, then 70 % active, 20 % revoked, 5 % used up, 5 % with idle timeouts."""
        for number, token_id in enumerate(self._tokens):
            yield self._token(number, token_id)

    def _token(self, number: int, token_id: str) -> Row:
        bearer, kind = new_bearer(), number * _PRIME % 100
        created_at = self._now - timedelta(days=90) + timedelta(days=89) * (number / len(self._tokens))
        is_expired, is_revoked = number < self._sizes.expired, 70 <= kind < 90
        ends_at = created_at + timedelta(hours=1) if is_expired else self._now + timedelta(days=1 + number % 300)
        used = kind * 3
        return {
            "id": token_id,
            "token": digest(bearer),
            "token_hint": hint(bearer),
            "project_id": self._owner(number),
            "expires_at": None if number % 17 == 16 and not is_expired else ends_at,
            "is_active": not is_revoked or is_expired,
            "deactivated_at": created_at if is_revoked and not is_expired else None,
            "request_count": used,
            "max_requests": used or 1 if 90 <= kind < 95 else (None if kind % 2 else 1_000_000),
            "created_at": created_at,
            "last_used_at": None if number % 5 == 4 else created_at + timedelta(minutes=number % 1000),
            "idle_timeout_minutes": 60 * 24 * 365 if kind >= 95 else None,
            "name": f"{('ci', 'batch', 'laptop', 'staging')[number % 4]} {number:06d}",
            "created_by": "management_api",
        }

    def audit(self) -> Iterator[Row]:
        """Yield records, oldest first, as hash chains that verify."""
        sizes, chains = self._sizes, list[tuple[str, Link]]()
        chains = [(self._id(), START) for _ in range(sizes.writers)]
        for number in range(sizes.audit):
            at = self._now - timedelta(days=sizes.audit_days) * (1 - number / sizes.audit)
            writer, link = chains[number % sizes.writers]
            row = chained_row(self._record(number, at).row(), writer, link)
            chains[number % sizes.writers] = (writer, Link(row["seq"], row["hash"]))
            yield row
        self._heads = chains

    def _record(self, number: int, at: datetime) -> AuditEvent:
        details = {
            "http_method": ("GET", "POST")[number % 2],
            "endpoint": _PATHS[number % 4] if number % 1000 else f"/v1/models/rare-{number}",
            "user_agent": "client/1.0",
            "token_id": self._tokens[number * _PRIME % len(self._tokens)],
        }
        return AuditEvent(
            _ACTIONS[number % len(_ACTIONS)],
            f"operator-{number % 7}",
            ("success", "success", "denied", "success", "failure")[number // 3 % 5],
            project_id=self._owner(number * _PRIME),
            request_id=self._id(),
            client_ip=f"10.0.{number % 50}.{number % 250}",
            details=details,
            id=self._id(),
            timestamp=at,
        )

    def writers(self) -> Iterator[Row]:
        """Yield the rows of the chains, after `audit` has ended."""
        for writer, link in self._heads:
            yield {
                "writer": writer,
                "last_seq": link.seq,
                "last_hash": link.hash,
                "removed_seq": START.seq,
                "removed_hash": START.hash,
            }

    def usage(self) -> Iterator[Row]:
        """Yield sums: each project uses two models a day, each with one of its tokens."""
        today = self._now.date()
        for back in range(self._sizes.usage_days):
            for number, project_id in enumerate(self._projects):
                for which in (0, 1):
                    yield {
                        "day": today - timedelta(days=back),
                        "project_id": project_id,
                        "token_id": self._tokens[(number * 2 + which + back) % len(self._tokens)],
                        "model": _MODELS[(number + which) % len(_MODELS)],
                        "requests": 100 + number,
                        "prompt_tokens": 50_000 + back,
                        "completion_tokens": 9_000 + number,
                        "cost_nano_usd": 7_000_000 + number,
                    }

    def outcomes(self) -> Iterator[Row]:
        """Yield numbers of requests by hour: a token of each project ended with one code."""
        hour = self._now.replace(minute=0, second=0, microsecond=0)
        for back in range(self._sizes.outcome_days * 24):
            for number, project_id in enumerate(self._projects):
                yield {
                    "hour": hour - timedelta(hours=back),
                    "project_id": project_id,
                    "token_id": self._tokens[(number + back) % len(self._tokens)],
                    "code": _CODES[(number + back) % len(_CODES)],
                    "requests": 1 + number % 50,
                }
