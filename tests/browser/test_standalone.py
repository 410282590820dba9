"""The admin UI in its own process: the same pages over HTTP, with the viewer's own rights."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from playwright.sync_api import BrowserContext, expect
from support.gateway import eventually
from support.issuer import CLIENT_ID, CLIENT_SECRET, Issuer, running_issuer

from .conftest import NAMES, Ui, sign_in

Contexts = Callable[..., BrowserContext]


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    """An OpenID provider on loopback."""
    with running_issuer() as found:
        yield found


@pytest.fixture(scope="module")
def alone(
    ui: Ui, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Callable[[str], None]]]:
    """Address of the process, and a function that starts it again before another proxy."""
    folder, running = tmp_path_factory.mktemp("alone"), list[subprocess.Popen[bytes]]()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def start(upstream: str) -> None:
        _stop(running)
        env = {
            "PATH": os.environ["PATH"],
            "MANAGEMENT_TOKEN": ui.secrets["root"],
            "ADMIN_UI_API_BASE_URL": upstream,
            "ADMIN_OIDC_ISSUER": issuer.url,
            "ADMIN_OIDC_CLIENT_ID": CLIENT_ID,
            "ADMIN_OIDC_CLIENT_SECRET": CLIENT_SECRET,
            "ADMIN_OIDC_ROLE_MAP": "ops:operator",
        }
        command = [sys.executable, "-m", "llm_proxy.cli", "admin", "--listen", f"127.0.0.1:{port}"]
        with (Path(folder) / "log").open("ab") as log:
            running.append(subprocess.Popen(command, env=env, cwd=folder, stdout=log, stderr=log))
        eventually(lambda: _listens(port), 30)

    start(ui.gateway.url)
    yield f"http://127.0.0.1:{port}", start
    _stop(running)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _stop(running: list[subprocess.Popen[bytes]]) -> None:
    for process in running:
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    running.clear()


def test_same_pages_with_the_viewers_rights(context_of: Contexts, ui: Ui, alone: tuple[str, object]) -> None:
    """An issuer sees and does through it what the role allows, under its own name, until its key is revoked."""
    url = alone[0]
    key = ui.api("POST", "/keys", {"name": "issuer alone", "role": "issuer", "projects": [ui.ids["markup"]]})
    page = context_of().new_page()
    page.goto(f"{url}/auth/login")
    page.get_by_label("Management token or key").fill(key["key"])
    page.get_by_role("button", name="Sign in").click()
    page.goto(f"{url}/tokens/new")
    page.get_by_label("Project", exact=True).select_option(ui.ids["markup"])
    page.get_by_role("button", name="Create token").click()
    page.get_by_role("link", name="Open token").click()
    token = page.url.rpartition("/")[2]
    assert ui.api("GET", f"/tokens/{token}")["created_by"] == "key:issuer alone"
    csrf = str(page.locator("[name=csrf_token]").first.get_attribute("value"))
    form: dict[str, str | float | bool] = {"csrf_token": csrf, "name": "never", "event_privacy": "full"}
    form["api_key"] = "sk-provider-0123456789abcdefghij"
    assert page.request.post(f"{url}/projects", form=form).status == 403
    ui.api("DELETE", f"/keys/{key['id']}")
    page.goto(f"{url}/tokens")
    expect(page).to_have_url(re.compile("/auth/login"))


def test_a_person_signs_in_at_the_identity_provider(
    context_of: Contexts, ui: Ui, alone: tuple[str, object], issuer: Issuer
) -> None:
    """The pages show and do what the person's role allows, the audit trail has its name; a code is used once."""
    url, page = alone[0], context_of().new_page()
    issuer.person("anna@example.com", "ops")
    page.goto(f"{url}/auth/login")
    begin = page.get_by_role("link", name="Sign in with the identity provider").get_attribute("href")
    leads = page.request.get(f"{url}{begin}", max_redirects=0)
    assert leads.status == 303
    query = urlencode(issuer.authorize(leads.headers["location"]))
    assert page.request.get(f"{url}/auth/oidc/callback?{query}", max_redirects=0).status == 303
    assert page.request.get(f"{url}/auth/oidc/callback?{query}", max_redirects=0).status == 403
    page.goto(f"{url}/tokens/new")
    expect(page.locator(".sidebar.wide-only .who")).to_contain_text("oidc:anna@example.com")
    page.get_by_label("Project", exact=True).select_option(ui.ids["markup"])
    page.get_by_role("button", name="Create token").click()
    page.get_by_role("link", name="Open token").click()
    assert ui.api("GET", f"/tokens/{page.url.rpartition('/')[2]}")["created_by"] == "oidc:anna@example.com"
    assert page.request.get(f"{url}/settings").status == 403
    with page.expect_response(re.compile("/events/stream")) as opened:
        page.goto(f"{url}/events")
    assert opened.value.status == 200


def test_a_completion_streams_in_the_playground(context_of: Contexts, ui: Ui, alone: tuple[str, object]) -> None:
    """By way of the process, which hands it on for those that are signed in alone."""
    url = alone[0]
    page = sign_in(context_of().new_page(), url, ui.secrets["root"])
    page.goto(f"{url}/playground?project_id={ui.ids['markup']}")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_text("Done")).to_be_visible()
    expect(page.locator("[data-playground-answer]")).not_to_be_empty()
    stranger = context_of().request.post(f"{url}/v1/chat/completions", data={})
    assert stranger.status == 401


def test_proxy_that_cannot_be_reached(context_of: Contexts, ui: Ui, alone: tuple[str, Callable[[str], None]]) -> None:
    """Pages are 502, the sign-in does not call the token wrong, health says it, and the sign-in page stays 200."""
    url, start = alone
    page = sign_in(context_of().new_page(), url, ui.secrets["root"])
    page.goto(f"{url}/projects/{ui.ids['right-to-left']}")
    expect(page.get_by_role("heading", level=1)).to_have_text(NAMES["right-to-left"])
    start("http://127.0.0.1:9")
    assert page.request.get(f"{url}/health").json()["backend"]["status"] == "down"
    assert page.request.get(f"{url}/auth/login").status == 200
    page.goto(f"{url}/auth/login")
    page.get_by_label("Management token or key").fill(ui.secrets["root"])
    with page.expect_response(f"{url}/auth/login") as response:
        page.get_by_role("button", name="Sign in").click()
    assert response.value.status == 502
    expect(page.get_by_role("alert")).to_contain_text("cannot be reached")
