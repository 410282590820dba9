"""A gateway before several simulated providers of different kinds, each with a canary key that it demands."""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.gateway import MANAGEMENT_TOKEN, Gateway, running_gateway
from support.provider import Provider, running_provider

NAMES = ("openai", "azure", "anthropic", "google", "mistral", "groq")


def canary(name: str) -> str:
    """The key of a provider, which must reach no other and no log."""
    return f"canary-key-of-{name}-0123456789abcdef"


@dataclass
class SideBySide:
    """The gateway, its providers by name, and the id of a project that has a key for each."""

    gateway: Gateway
    providers: dict[str, Provider]
    project_id: str

    @property
    def url(self) -> str:
        """The gateway's."""
        return self.gateway.url

    def token(self, **wanted: Any) -> str:
        """A new token's bearer."""
        body = {"project_id": self.project_id, "duration_minutes": 60, **wanted}
        status, issued = self.manage("POST", "/manage/tokens", body)
        assert status == 200, issued
        return str(issued["token"])

    def manage(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """One management call: status, and the body as JSON."""
        fields = {"Authorization": f"Bearer {MANAGEMENT_TOKEN}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        status, _, content = self.gateway.ask(method, path, data, headers=fields)
        return status, json.loads(content) if content else None


@contextmanager
def running_side_by_side(folder: Path, names: Sequence[str] = NAMES, **variables: str) -> Iterator[SideBySide]:
    """Start providers of these kinds and a gateway before them."""
    with ExitStack() as stack:
        providers = {}
        for name in names:
            (folder / name).mkdir()
            options = ("--interval", "0", "--kind", name, "--key", canary(name))
            providers[name] = stack.enter_context(running_provider(folder / name, *options))
        urls = ",".join(f"{name}={providers[name].url}" for name in names if name != "openai")
        settings = {"PROVIDERS": ",".join(names), "PROVIDER_URLS": urls, "FILE_EVENT_LOG": "events.jsonl"}
        gateway = stack.enter_context(
            running_gateway(folder / "gateway", providers["openai"].url, **settings | variables)
        )
        world = SideBySide(gateway, providers, "")
        status, project = world.manage("POST", "/manage/projects", {"name": "side-by-side"})
        assert (status, project["api_key"]) == (201, ""), project
        world.project_id = project["id"]
        for name in names:
            path = f"/manage/projects/{project['id']}/provider-keys/{name}"
            status, stored = world.manage("PUT", path, {"api_key": canary(name)})
            assert status == 200, stored
            assert canary(name) not in str(stored)
        yield world
