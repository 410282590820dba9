"""A newcomer, with a mouse and the clipboard: from the sign-in to a streamed completion."""

import re
from collections.abc import Callable

from playwright.sync_api import BrowserContext, Locator, Page, expect

from .conftest import Ui, picture

Contexts = Callable[..., BrowserContext]
MOST_CLICKS = 12


class Mouse:
    """Clicks that are counted, and text that is pasted; nothing is typed."""

    def __init__(self, page: Page) -> None:
        self.page, self.clicks = page, 0

    def click(self, target: Locator) -> None:
        """Press what can be seen."""
        expect(target).to_be_visible()
        self.clicks += 1
        target.click()

    def paste(self, target: Locator, text: str) -> None:
        """Click into a field and paste."""
        self.click(target)
        target.fill(text)


def test_from_the_sign_in_to_a_streamed_completion(context_of: Contexts, ui: Ui) -> None:
    """Sign-in, project, token and playground take a dozen clicks and three pastes, and no look into a manual."""
    page = context_of().new_page()
    mouse = Mouse(page)
    page.goto(ui.url)
    mouse.paste(page.get_by_label("Management token or key"), ui.secrets["root"])
    mouse.click(page.get_by_role("button", name="Sign in"))
    mouse.click(page.get_by_role("link", name="New project"))
    mouse.paste(page.get_by_label("Name", exact=True), "newcomer")
    mouse.paste(page.get_by_label("Provider key"), "sk-provider-0123456789abcdefghij")
    mouse.click(page.get_by_role("button", name="Create project"))
    mouse.click(page.get_by_role("link", name="Generate token"))
    mouse.click(page.get_by_role("button", name="Create token"))
    expect(page.locator("#new-token")).to_have_text(re.compile("sk-"))
    mouse.click(page.get_by_role("link", name="Try it in the playground"))
    expect(page.get_by_label("Project", exact=True)).to_have_value(re.compile("[0-9a-f-]{36}"))
    mouse.click(page.get_by_role("button", name="Send"))
    expect(page.get_by_text("Done")).to_be_visible()
    expect(page.locator("[data-playground-answer]")).not_to_be_empty()
    picture(page, "newcomer-done")
    assert mouse.clicks <= MOST_CLICKS
