"""A real browser before the real server: one of each for all tests."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from support.gateway import MANAGEMENT_TOKEN, Gateway, running_gateway
from support.prefix import running_prefix_proxy
from support.provider import running_provider
from support.redis import RedisServer, running_redis

from llm_proxy.events.dead_letters import DeadLetters

ROLES = ("viewer", "issuer", "operator", "admin")
NAMES = {
    "long": "n" * 255,
    "right-to-left": "فريق البحث والتطوير",
    "markup": "<script>document.title = 'owned'</script>",
}
_FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
_WATCH = "addEventListener('securitypolicyviolation', e => console.error('CSP: ' + e.violatedDirective))"
SCREENSHOTS = os.environ.get("LLM_PROXY_SCREENSHOTS", "")


@dataclass
class Ui:
    """The admin UI of a running server.

    Attributes:
        url: Address of the UI, its path included.
        ids: Of what was made for the tests: projects by the kind of name, `token`, `key`, `record`.
        secrets: What signs in, by role.
        redis: Of the event bus; None: the bus is in the server.
    """

    gateway: Gateway
    url: str
    ids: dict[str, str]
    secrets: dict[str, str]
    redis: RedisServer | None = None

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """Call the management API as root."""
        headers = {"Authorization": f"Bearer {MANAGEMENT_TOKEN}", "Content-Type": "application/json"}
        content = None if body is None else json.dumps(body).encode()
        status, _, answer = self.gateway.ask(method, f"/manage{path}", content, headers=headers)
        assert status < 300, (method, path, status, answer)
        return json.loads(answer) if answer else None

    def project(self, name: str) -> str:
        """Make a project; its id."""
        made = self.api("POST", "/projects", {"name": name, "api_key": "sk-provider-0123456789abcdefghij"})
        return str(made["id"])

    def token(self, project: str, **more: Any) -> dict[str, Any]:
        """Make a token."""
        made: dict[str, Any] = self.api("POST", "/tokens", {"project_id": project, "duration_minutes": 60, **more})
        return made

    def dead_letter(self, error: str) -> None:
        """Put an event among those that were given up."""
        assert self.redis is not None
        key = self.api("GET", "/dispatcher")["key"]
        with self.redis.client() as client:
            letters = DeadLetters(client, f"{key}:dead", bus_key=key, is_list=False, max_len=100)
            letters.add(b"{}", reason="rejected", error=error, service="file", attempts=3, original_id="1-1")


@pytest.fixture(scope="session")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    """Serve the UI, with a few records, before a simulated provider."""
    folder = tmp_path_factory.mktemp("ui")
    for name in ("provider", "redis"):
        (folder / name).mkdir()
    settings = {"TRUSTED_PROXIES": "127.0.0.1", "WEB_CONCURRENCY": "1", "LLM_PROXY_EVENT_BUS": "redis-streams"}
    with (
        running_redis(folder / "redis") as redis,
        running_provider(folder / "provider", "--interval", "0") as provider,
        running_gateway(folder / "gateway", provider.url, REDIS_ADDR=redis.addr, **settings) as gateway,
    ):
        found = Ui(gateway, f"{gateway.url}/admin", {}, {"root": MANAGEMENT_TOKEN}, redis)
        for kind, name in NAMES.items():
            found.ids[kind] = found.project(name)
            found.token(found.ids[kind], name=name)
        found.ids["token"] = found.token(found.ids["long"], max_requests=5, metadata={"team": "search"})["id"]
        for role in ROLES:
            key = found.api("POST", "/keys", {"name": f"the {role}", "role": role})
            found.secrets[role], found.ids["key"] = key["key"], key["id"]
        found.ids["record"] = found.api("GET", "/audit?limit=1")["events"][0]["id"]
        yield found


@pytest.fixture(scope="session")
def prefixed(ui: Ui, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the UI below /a/b, behind a proxy that cuts the prefix off."""
    with running_prefix_proxy(tmp_path_factory.mktemp("prefix"), ui.gateway.port, "/a/b") as url:
        yield f"{url}/a/b/admin"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Start Debian's Chromium, headless."""
    program = shutil.which("chromium")
    assert program, "the browser tests need Debian's package chromium"
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=program, args=list(_FLAGS))
        yield found
        found.close()


@pytest.fixture
def context_of(browser: Browser, ui: Ui) -> Iterator[Callable[..., BrowserContext]]:
    """Open browser contexts; at the end, none has asked another host, and no page has broken the policy."""
    opened, faults = list[BrowserContext](), list[str]()

    def watch(page: Page) -> None:
        page.on("console", lambda message: faults.append(message.text) if "CSP" in message.text else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: faults.append(request.url) if _is_foreign(request.url) else None)

    def make(**options: Any) -> BrowserContext:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, "locale": "en-GB", **options})
        context.set_default_timeout(10_000)
        context.add_init_script(_WATCH)
        context.on("page", watch)
        opened.append(context)
        return context

    yield make
    for context in opened:
        context.close()
    assert faults == []


@pytest.fixture
def page(context_of: Callable[..., BrowserContext], ui: Ui) -> Page:
    """A page that root has signed in to."""
    return sign_in(context_of().new_page(), ui.url, ui.secrets["root"])


def sign_in(page: Page, url: str, secret: str) -> Page:
    """Sign in by the form."""
    page.goto(f"{url}/auth/login")
    page.get_by_label("Management token or key").fill(secret)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(re.compile(r"/dashboard$"))
    return page


def picture(page: Page, name: str) -> None:
    """Save a screenshot, where LLM_PROXY_SCREENSHOTS names a folder."""
    if SCREENSHOTS:
        Path(SCREENSHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=f"{SCREENSHOTS}/{name}.png", full_page=True)


def _is_foreign(url: str) -> bool:
    return not url.startswith(("http://127.0.0.1:", "data:", "blob:", "about:"))
