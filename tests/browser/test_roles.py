"""Each role is offered what it may do, and is refused the rest."""

from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext

from .conftest import Ui, sign_in

Contexts = Callable[..., BrowserContext]
MAY = {
    "viewer": {"Dashboard", "Projects", "Tokens", "Audit Events"},
    "issuer": {"Tokens"},
    "operator": {"Dashboard", "Projects", "Tokens", "Audit Events"},
    "admin": {"Dashboard", "Projects", "Tokens", "Audit Events", "Management keys"},
}
CREATES = {"viewer": set[str](), "issuer": {"token"}, "operator": {"token"}, "admin": {"token", "project"}}


@pytest.mark.parametrize("role", MAY)
def test_role_sees_what_it_may_do(context_of: Contexts, ui: Ui, role: str) -> None:
    """Navigation and buttons follow the table of roles."""
    page = sign_in(context_of().new_page(), ui.url, ui.secrets[role])
    shown = {text.strip() for text in page.locator(".sidebar.wide-only .nav a").all_text_contents()}
    assert shown >= MAY[role]
    assert not shown & (set.union(*MAY.values()) - MAY[role])
    page.goto(f"{ui.url}/tokens")
    assert page.get_by_role("link", name="New token", exact=True).count() == ("token" in CREATES[role])
    assert page.get_by_role("button", name="Revoke selected…").count() == (role != "viewer")


@pytest.mark.parametrize("role", MAY)
def test_role_is_refused_the_rest(context_of: Contexts, ui: Ui, role: str) -> None:
    """A form that the page does not offer is refused by the API."""
    page = sign_in(context_of().new_page(), ui.url, ui.secrets[role])
    page.goto(f"{ui.url}/tokens")
    csrf = str(page.locator("[name=csrf_token]").first.get_attribute("value"))
    name = f"made by {role}"
    form: dict[str, str | float | bool] = {
        "csrf_token": csrf,
        "name": name,
        "api_key": "sk-provider-0123456789abcdefghij",
        "event_privacy": "full",
    }
    made = page.request.post(f"{ui.url}/projects", form=form, max_redirects=0)
    assert made.status == (303 if "project" in CREATES[role] else 403)
    assert len(ui.api("GET", f"/projects?search={name.replace(' ', '%20')}")) == ("project" in CREATES[role])


def test_forms_of_other_sites_are_refused(context_of: Contexts, ui: Ui) -> None:
    """Without the session's token, or from another origin, nothing is done."""
    page = sign_in(context_of().new_page(), ui.url, ui.secrets["root"])
    page.goto(f"{ui.url}/tokens")
    csrf = str(page.locator("[name=csrf_token]").first.get_attribute("value"))
    target = f"{ui.url}/tokens/{ui.ids['token']}/revoke"
    assert page.request.post(target, form={}).status == 403
    assert page.request.post(target, form={"csrf_token": csrf}, headers={"Origin": "http://evil.example"}).status == 403
    assert ui.api("GET", f"/tokens/{ui.ids['token']}")["is_active"]
