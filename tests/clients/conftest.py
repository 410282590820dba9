"""Vendors' own clients with a token in place of the key: each call is made directly and through the proxy."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from support.provider import Seen
from support.side_by_side import SideBySide, canary, running_side_by_side

PREFIX = {"openai": ""}
CREDENTIALS = frozenset(("authorization", "api-key", "x-api-key", "x-goog-api-key"))
OF_ONE_EXCHANGE = CREDENTIALS | {"host", "connection", "x-request-id", "x-stainless-retry-count", "keep-alive"}


@dataclass(frozen=True)
class Way:
    """Where a client is pointed: the provider itself, or the proxy."""

    url: str
    key: str
    name: str


@dataclass
class World:
    """The servers, and what they saw of each way."""

    side: SideBySide
    token: str = field(repr=False)

    def direct(self, name: str) -> Way:
        """Past the proxy, with the provider's key."""
        return Way(self.side.providers[name].url, canary(name), "direct")

    def proxied(self, name: str, token: str | None = None) -> Way:
        """Through it, with a token."""
        return Way(self.side.url + PREFIX.get(name, f"/{name}"), token or self.token, "proxied")

    def last(self, name: str) -> Seen:
        """The last request that the provider received."""
        return self.side.providers[name].seen()[-1]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """All kinds, and a token for all of them."""
    with running_side_by_side(tmp_path_factory.mktemp("clients")) as side:
        yield World(side, side.token())


def as_sent(seen: Seen) -> tuple[Any, ...]:
    """A request without what is one exchange's: method, target, body, and the fields in their order."""
    fields = [(name.lower(), value) for name, value in seen.fields if name.lower() not in OF_ONE_EXCHANGE]
    return seen.method, seen.target, seen.body_sha256, fields


def normal(value: Any) -> Any:
    """A result without ids and instants, as plain values."""
    if hasattr(value, "model_dump"):
        value = value.model_dump(mode="json")
    text = json.dumps(value, default=str, sort_keys=True)
    value = json.loads(text)
    return _without(value)


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        gone = ("id", "created", "created_at", "sdk_http_response", "request_id", "_request_id")
        return {name: _without(item) for name, item in value.items() if name not in gone}
    return [_without(item) for item in value] if isinstance(value, list) else value
