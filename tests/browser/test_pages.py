"""Every page: it is there, accessible in both themes, as wide as the window, and of this server alone."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from .conftest import Ui, picture

PAGES = {
    "dashboard": "/dashboard",
    "projects": "/projects",
    "project": "/projects/{long}",
    "project-new": "/projects/new",
    "project-edit": "/projects/{right-to-left}/edit",
    "project-revoke": "/projects/{markup}/revoke-tokens",
    "tokens": "/tokens",
    "tokens-none": "/tokens?search=there-is-none",
    "token": "/tokens/{token}",
    "token-new": "/tokens/new",
    "token-edit": "/tokens/{token}/edit",
    "token-roll": "/tokens/{token}/roll",
    "audit": "/audit?outcome=success&page=1",
    "audit-record": "/audit/{record}",
    "keys": "/keys",
    "key": "/keys/{key}",
    "key-new": "/keys/new",
    "people": "/people",
    "error": "/tokens/there-is-none",
}
WIDTHS = (360, 1024, 1600)
COVERED = """[...document.querySelectorAll("td:has(> .actions)")].filter((actions) => {
  const shown = [...actions.parentElement.cells].filter((cell) => cell !== actions && cell.checkVisibility());
  return innerWidth >= 768 && shown.at(-1).getBoundingClientRect().right > actions.getBoundingClientRect().left + 1;
}).length"""  # rows whose buttons lie over another cell


@pytest.mark.parametrize("name", PAGES)
def test_page_is_accessible_and_fits(page: Page, ui: Ui, name: str) -> None:
    """No violation that axe finds, in light and dark; no sideways scrolling of the page from 360 to 1600 px."""
    response = page.goto(ui.url + PAGES[name].format(**ui.ids))
    assert response is not None
    assert response.status == (404 if name == "error" else 200)
    assert response.headers["cache-control"] == "no-store"
    assert "unsafe" not in response.headers["content-security-policy"]
    assert page.title() != "owned"
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme, reduced_motion="reduce")
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        for width in WIDTHS if theme == "light" else WIDTHS[1:2]:
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"too wide at {width}"
            assert page.evaluate(COVERED) == 0, f"buttons over a cell at {width}"
            picture(page, f"{name}-{width}-{theme}")
        page.set_viewport_size({"width": 1280, "height": 800})


def test_sign_in_page_is_accessible(context_of, ui: Ui) -> None:  # type: ignore[no-untyped-def]
    """So is the first page, and a wrong token is told there."""
    page = context_of().new_page()
    page.goto(ui.url)
    assert Axe().run(page).violations_count == 0
    picture(page, "sign-in")
    page.get_by_role("button", name="Sign in").click()
    assert "Please enter your management token" in page.content()
    page.get_by_label("Management token or key").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    assert "Invalid management token. Please check your token and try again." in page.content()
    assert Axe().run(page).violations_count == 0
