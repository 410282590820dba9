"""What a person does with the forms, with good and bad input."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import BrowserContext, Page, expect

from .conftest import NAMES, Ui, sign_in

Contexts = Callable[..., BrowserContext]


def click(page: Page, name: str, role: Any = "button") -> None:
    """Press a button, or follow a link."""
    page.get_by_role(role, name=name, exact=True).click()


def test_from_sign_in_to_a_token_by_keyboard(context_of: Contexts, ui: Ui) -> None:
    """Project and token are made without a mouse, and the token answers a request."""
    page = context_of().new_page()
    page.goto(ui.url)
    page.keyboard.type(ui.secrets["root"])  # the field has the focus
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/dashboard$"))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.goto(f"{ui.url}/projects/new")
    page.get_by_label("Name", exact=True).focus()
    page.keyboard.type("By keyboard")
    page.keyboard.press("Tab")
    page.keyboard.type("sk-provider-0123456789abcdefghij")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/projects/[0-9a-f-]{36}$"))
    page.get_by_role("link", name="Generate token").focus()
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/tokens/new"))
    page.get_by_label("Name", exact=True).focus()
    page.keyboard.press("Enter")
    bearer = page.locator("#new-token").text_content() or ""
    assert bearer in (page.locator("#use-curl").text_content() or "")
    assert ui.gateway.url in (page.locator("#use-curl").text_content() or "")
    headers = {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"}
    body = b'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}'
    assert ui.gateway.ask("POST", "/v1/chat/completions", body, headers=headers)[0] == 200


def test_a_form_that_is_sent_again_makes_no_second_token(page: Page, ui: Ui) -> None:
    """Reloading the page with the new token shows the same one."""
    page.goto(f"{ui.url}/tokens/new?project_id={ui.ids['markup']}")
    page.get_by_label("Name", exact=True).fill("reloaded")
    click(page, "Create token")
    first = page.locator("#new-token").text_content()
    assert Axe().run(page).violations_count == 0
    page.reload()
    assert page.locator("#new-token").text_content() == first
    assert len(ui.api("GET", "/tokens?search=reloaded")) == 1


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("Other duration", "soon", "Write 45m, 36h or 10d."),
        ("Other duration", "366d", "duration_minutes exceeds maximum allowed"),
        ("Max requests", "2147483648", "max_requests must be <= 2147483647"),
    ],
)
def test_bad_token_is_told_at_its_field(page: Page, ui: Ui, field: str, value: str, told: str) -> None:
    """What was typed stays, and the field says what is wrong."""
    page.goto(f"{ui.url}/tokens/new?project_id={ui.ids['markup']}")
    page.get_by_label("Name", exact=True).fill("kept")
    page.get_by_label(field, exact=True).fill(value)
    click(page, "Create token")
    expect(page.locator(".error, .message.bad").filter(has_text=told).first).to_be_visible()
    expect(page.get_by_label("Name", exact=True)).to_have_value("kept")


@pytest.mark.parametrize("kind", NAMES)
def test_names_of_any_kind_are_text(page: Page, ui: Ui, kind: str) -> None:
    """A name shows as it is in the list and on its page, and no script in it runs."""
    page.goto(f"{ui.url}/projects/{ui.ids[kind]}")
    expect(page.get_by_role("heading", level=1)).to_have_text(NAMES[kind])
    assert page.title() != "owned"


def test_taken_name_and_missing_key(page: Page, ui: Ui) -> None:
    """409 stands at the field with the name kept; a missing key has the promised text."""
    page.goto(f"{ui.url}/projects/new")
    page.get_by_label("Name", exact=True).fill(NAMES["right-to-left"])
    click(page, "Create project")
    expect(page.get_by_role("alert")).to_have_text("Please fill in all required fields")
    page.get_by_label("Provider key").fill("sk-provider-0123456789abcdefghij")
    click(page, "Create project")
    expect(page.locator("#name-error, .message.bad").first).to_contain_text("already exists")
    expect(page.get_by_label("Name", exact=True)).to_have_value(NAMES["right-to-left"])
    expect(page.get_by_label("Provider key")).to_have_value("")


def test_revoke_and_reactivate_keep_the_limit(page: Page, ui: Ui) -> None:
    """Revocation asks first and says what it hits; reactivation changes nothing else."""
    token = ui.token(ui.ids["long"], max_requests=7, name="there and back")["id"]
    page.goto(f"{ui.url}/tokens/{token}")
    click(page, "Revoke", "link")
    expect(page.locator(".message.warn")).to_contain_text("1 token, 1 active")
    expect(page.locator(".message.warn")).to_contain_text("never used")
    click(page, "Revoke token")
    expect(page.get_by_role("status")).to_have_text("Token revoked.")
    click(page, "Reactivate")
    expect(page.get_by_text("0 of 7")).to_be_visible()
    shown = ui.api("GET", f"/tokens/{token}")
    assert (shown["is_active"], shown["max_requests"]) == (True, 7)


def test_unticking_deactivates_and_changes_nothing_else(page: Page, ui: Ui) -> None:
    """The edit form writes what was changed."""
    token = ui.token(ui.ids["long"], max_requests=9, metadata={"a": "b"})["id"]
    page.goto(f"{ui.url}/tokens/{token}/edit")
    page.locator("input[name=is_active][type=checkbox]").uncheck()
    click(page, "Save")
    shown = ui.api("GET", f"/tokens/{token}")
    assert (shown["is_active"], shown["max_requests"], shown["metadata"]) == (False, 9, {"a": "b"})


def test_more_than_twenty_need_their_number_typed(page: Page, ui: Ui) -> None:
    """Twenty-one tokens are revoked by their check boxes once 21 is typed, and not before."""
    project = ui.project("Twenty-one")
    for _ in range(21):
        ui.token(project)
    page.goto(f"{ui.url}/tokens?project_id={project}&size=25")
    page.get_by_label("Select all tokens of this page").check()
    click(page, "Revoke selected…")
    page.get_by_label("Type 21 to confirm").fill("20")
    click(page, "Revoke tokens")
    expect(page.get_by_role("alert")).to_have_text("Type 21 to confirm.")
    page.get_by_label("Type 21 to confirm").fill("21")
    click(page, "Revoke tokens")
    expect(page.get_by_role("status")).to_have_text("21 tokens revoked.")
    assert len(ui.api("GET", f"/tokens?project_id={project}&status=revoked")) == 21


def test_two_people_on_one_record(context_of: Contexts, ui: Ui) -> None:
    """The second one sees both versions, and can apply hers."""
    project = ui.project("Shared")
    first, second = (sign_in(context_of().new_page(), ui.url, ui.secrets["root"]) for _ in range(2))
    for each in (first, second):
        each.goto(f"{ui.url}/projects/{project}/edit")
    first.get_by_label("Requests per minute").fill("10")
    click(first, "Save")
    second.get_by_label("Requests per minute").fill("20")
    click(second, "Save")
    expect(second.get_by_text("Another person changed this project meanwhile")).to_be_visible()
    expect(second.locator(".facts")).to_contain_text("10")
    assert ui.api("GET", f"/projects/{project}")["requests_per_minute"] == 10
    click(second, "Save")
    expect(second.get_by_role("status")).to_have_text("Project saved.")
    assert ui.api("GET", f"/projects/{project}")["requests_per_minute"] == 20


def test_session_that_ends_midway(context_of: Contexts, ui: Ui) -> None:
    """A form of a session that is over changes nothing and leads to the sign-in."""
    key = ui.api("POST", "/keys", {"name": "short-lived", "role": "admin"})
    page = sign_in(context_of().new_page(), ui.url, key["key"])
    page.goto(f"{ui.url}/projects/new")
    ui.api("DELETE", f"/keys/{key['id']}")
    page.wait_for_timeout(1100)  # the bound that revocations have
    page.get_by_label("Name", exact=True).fill("never made")
    page.get_by_label("Provider key").fill("sk-provider-0123456789abcdefghij")
    click(page, "Create project")
    expect(page).to_have_url(re.compile("/auth/login"))
    assert ui.api("GET", "/projects?search=never%20made") == []


def test_without_javascript(context_of: Contexts, ui: Ui) -> None:
    """Sign-in, creation, confirmation and sign-out are forms and links."""
    page = sign_in(context_of(java_script_enabled=False).new_page(), ui.url, ui.secrets["root"])
    page.goto(f"{ui.url}/tokens/new?project_id={ui.ids['markup']}")
    click(page, "Create token")
    click(page, "Open token", "link")
    click(page, "Revoke", "link")
    click(page, "Revoke token")
    expect(page.get_by_text("Revoked").first).to_be_visible()
    click(page, "Logout")
    page.goto(f"{ui.url}/dashboard")
    expect(page).to_have_url(re.compile("/auth/login"))


def test_below_a_prefix(context_of: Contexts, ui: Ui, prefixed: str) -> None:
    """Behind a proxy that cuts off /a/b, every address, cookie and snippet has it."""
    page = sign_in(context_of().new_page(), prefixed, ui.secrets["root"])
    assert page.url == f"{prefixed}/dashboard"
    assert {cookie["path"] for cookie in page.context.cookies()} == {"/a/b/admin"}
    page.goto(f"{prefixed}/projects/new")
    page.get_by_label("Name", exact=True).fill("Below a prefix")
    page.get_by_label("Provider key").fill("sk-provider-0123456789abcdefghij")
    click(page, "Create project")
    assert page.url.startswith(f"{prefixed}/projects/")
    expect(page.get_by_role("status")).to_have_text("Project created.")
    click(page, "Generate token", "link")
    click(page, "Create token")
    assert "/a/b/v1/chat" in (page.locator("#use-curl").text_content() or "")
    page.goto(f"{prefixed}/tokens?size=2")
    click(page, "Next", "link")
    assert page.url.startswith(f"{prefixed}/tokens?")


def test_jump_box(page: Page, ui: Ui) -> None:
    """A pasted token, an id and a name lead to their page; the token's value is in no address."""
    made = ui.token(ui.ids["right-to-left"], name="jumped to")
    addresses = list[str]()
    page.on("request", lambda request: addresses.append(request.url))
    for text, target in (
        (made["token"], f"/tokens/{made['id']}"),
        (made["id"], f"/tokens/{made['id']}"),
        (NAMES["right-to-left"], f"/projects/{ui.ids['right-to-left']}"),
    ):
        page.goto(f"{ui.url}/dashboard")
        page.keyboard.press("Control+k")
        page.keyboard.type(text)
        page.keyboard.press("Enter")
        page.wait_for_url(ui.url + target)
    assert not any(made["token"] in address for address in addresses)


def test_paging_and_files_keep_the_filters(page: Page, ui: Ui) -> None:
    """The next page and the CSV hold what was filtered; no cell begins as a formula."""
    project = ui.project("=cmd|' /C calc'!A0")
    for number in range(3):
        ui.token(project, name=f"=cell {number}")
    page.goto(f"{ui.url}/tokens?project_id={project}&size=2")
    assert page.locator("tbody tr").count() == 2
    click(page, "Next", "link")
    assert page.locator("tbody tr").count() == 1
    response = page.request.get(f"{ui.url}/tokens.csv?project_id={project}")
    lines = response.text().splitlines()
    assert len(lines) == 4
    assert not re.search(r"(^|,)[=+@-]", "\n".join(lines[1:]), re.MULTILINE)
    assert len(page.request.get(f"{ui.url}/tokens.json?project_id={project}").json()) == 3
    for name in ("projects", "audit", "keys"):
        assert page.request.get(f"{ui.url}/{name}.csv").ok
        assert isinstance(page.request.get(f"{ui.url}/{name}.json").json(), list)


def test_project_lifecycle(page: Page, ui: Ui) -> None:
    """Deactivation with the tokens, activation, and a deletion that is refused with its page."""
    project = ui.project("Ends and begins")
    token = ui.token(project)["id"]
    page.goto(f"{ui.url}/projects/{project}")
    click(page, "Deactivate", "link")
    page.get_by_label("Revoke its tokens too").check()
    click(page, "Deactivate project")
    expect(page.get_by_role("status")).to_have_text("Project deactivated, its tokens revoked.")
    assert ui.api("GET", f"/tokens/{token}")["status"] == "revoked"
    expect(page.get_by_role("button", name="Generate token")).to_be_disabled()
    click(page, "Activate")
    assert ui.api("GET", f"/projects/{project}")["is_active"]
    csrf = page.locator("[name=csrf_token]").first.get_attribute("value")
    form: dict[str, str | float | bool] = {"csrf_token": str(csrf), "_method": "DELETE"}
    refused = page.request.post(f"{ui.url}/projects/{project}", form=form)
    assert refused.status == 405
    assert "project deletion is not permitted" in refused.text()
    assert page.request.post(f"{ui.url}/projects/{project}", form={**form, "_method": "PATCH"}).status == 400


def test_management_key_is_made_rolled_and_revoked(page: Page, ui: Ui) -> None:
    """Each secret shows once and signs in; the revoked key is gone."""
    page.goto(f"{ui.url}/keys/new")
    page.get_by_label("Name", exact=True).fill("CI")
    page.get_by_label("Role").select_option("issuer")
    click(page, "Create key")
    assert (page.locator("#new-key").text_content() or "").startswith("mk-")
    click(page, "Open key", "link")
    click(page, "Roll", "link")
    click(page, "Roll key")
    assert (page.locator("#new-key").text_content() or "").startswith("mk-")
    click(page, "Open key", "link")
    click(page, "Revoke", "link")
    click(page, "Revoke key")
    expect(page.get_by_role("status")).to_have_text("Management key revoked.")
    assert [key for key in ui.api("GET", "/keys") if key["name"] == "CI"] == []
