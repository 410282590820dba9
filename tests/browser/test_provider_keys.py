"""A project's keys for providers side by side, and a token's providers and description, in the browser."""

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import BrowserContext, Page, expect
from support.gateway import MANAGEMENT_TOKEN, running_gateway

from .conftest import Ui, sign_in

Contexts = Callable[..., BrowserContext]
SECRET = "key-of-anthropic-0123456789abcdef"


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    """The UI of a gateway before two providers; no request is sent to them."""
    folder = tmp_path_factory.mktemp("several")
    settings = {"WEB_CONCURRENCY": "1", "PROVIDERS": "openai,anthropic"}
    with running_gateway(folder, "http://127.0.0.1:9", **settings) as gateway:
        yield Ui(gateway, f"{gateway.url}/admin", {}, {"root": MANAGEMENT_TOKEN})


@pytest.fixture
def root(context_of: Contexts, several: Ui) -> Page:
    """A page that root has signed in to."""
    return sign_in(context_of().new_page(), several.url, several.secrets["root"])


def click(page: Page, name: str, role: str = "link") -> None:
    """Follow a link, or press a button."""
    page.get_by_role(role, name=name, exact=True).click()  # type: ignore[arg-type]


def test_a_key_is_set_replaced_and_removed(root: Page, several: Ui) -> None:
    """The page shows it obfuscated, the form never, and removal asks first."""
    root.goto(f"{several.url}/projects/new")
    root.get_by_label("Name", exact=True).fill("without a key")
    click(root, "Create project", "button")
    row = root.get_by_role("row").filter(has_text="anthropic")
    expect(row).to_contain_text("–")
    click(root, "Set the key for anthropic")
    expect(root.get_by_label("Provider", exact=True)).to_have_value("anthropic")
    root.get_by_label("Provider key").fill(SECRET)
    click(root, "Save key", "button")
    expect(root.get_by_role("status")).to_have_text("Key for anthropic saved.")
    expect(row).to_contain_text("cdef")
    assert SECRET not in root.content()
    click(root, "Replace the key for anthropic")
    root.get_by_label("Provider key").fill("two\twords")
    click(root, "Save key", "button")
    expect(root.locator("#api_key-error, .message.bad").first).to_contain_text("api_key")
    expect(root.get_by_label("Provider key")).to_have_value("")
    click(root, "Cancel")
    click(root, "Remove the key for anthropic")
    click(root, "Remove key", "button")
    expect(root.get_by_role("status")).to_have_text("Key for anthropic removed.")
    expect(root.get_by_role("link", name="Set the key for anthropic")).to_be_visible()


def test_viewers_see_keys_and_cannot_change_them(context_of: Contexts, several: Ui) -> None:
    """Rows without links, and a form that is sent anyway is refused."""
    project = several.project("watched")
    several.api("PUT", f"/projects/{project}/provider-keys/anthropic", {"api_key": SECRET})
    secret = several.api("POST", "/keys", {"name": "watcher", "role": "viewer"})["key"]
    page = sign_in(context_of().new_page(), several.url, secret)
    page.goto(f"{several.url}/projects/{project}")
    expect(page.get_by_role("row").filter(has_text="anthropic")).to_contain_text("cdef")
    assert page.get_by_role("link", name="Replace the key for anthropic").count() == 0
    csrf = str(page.locator("[name=csrf_token]").first.get_attribute("value"))
    form: dict[str, str | float | bool] = {"csrf_token": csrf, "provider": "anthropic", "api_key": SECRET}
    target = f"{several.url}/projects/{project}/provider-keys"
    assert page.request.post(target, form=form, max_redirects=0).status == 403
    assert page.request.post(f"{target}/anthropic/remove", form={"csrf_token": csrf}, max_redirects=0).status == 403


def test_a_tokens_providers_and_description(root: Page, several: Ui) -> None:
    """Both are given at creation, shown on the token's page and changed in its form; an unknown name is told."""
    project = several.project("for some")
    root.goto(f"{several.url}/tokens/new?project_id={project}")
    root.get_by_text("Further limits").click()
    root.get_by_label("Description").fill("for the crawler")
    root.get_by_label("Providers").fill("openai, unknown")
    click(root, "Create token", "button")
    expect(root.locator(".error, .message.bad").filter(has_text="unknown provider").first).to_be_visible()
    root.get_by_label("Providers").fill("anthropic")
    click(root, "Create token", "button")
    expect(root.locator("#new-token")).to_be_visible()
    token = several.api("GET", f"/tokens?project_id={project}")[0]["id"]
    root.goto(f"{several.url}/tokens/{token}")
    expect(root.get_by_text("for the crawler")).to_be_visible()
    expect(root.locator("dd", has_text="anthropic")).to_be_visible()
    click(root, "Edit")
    expect(root.get_by_label("Providers")).to_have_value("anthropic")
    root.get_by_label("Providers").fill("")
    click(root, "Save", "button")
    shown = several.api("GET", f"/tokens/{token}")
    assert (shown["providers"], shown["description"]) == (None, "for the crawler")
