"""Pages on a running server: usage, open streams, events, dispatcher, cache, settings, doctor, playground."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import BrowserContext, Page, expect
from support.gateway import eventually
from support.raw import Client, request

from .conftest import Ui, picture, sign_in

PAGES = {
    "dashboard-used": "/dashboard?span=7d",
    "usage": "/usage?group=project",
    "usage-none": "/usage?from=2020-01-01&to=2020-01-02",
    "streams": "/streams",
    "events": "/events",
    "dispatcher": "/dispatcher",
    "cache": "/cache",
    "settings": "/settings",
    "doctor": "/doctor",
    "playground": "/playground",
}
CHAT = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}).encode()
PATH = "/v1/chat/completions"


@pytest.fixture(scope="module", autouse=True)
def _used(ui: Ui) -> None:
    """Something was used."""
    token = ui.token(ui.ids["long"])
    fields = {"Authorization": f"Bearer {token['token']}", "Content-Type": "application/json"}
    assert ui.gateway.ask("POST", PATH, CHAT, headers=fields)[0] == 200
    eventually(lambda: ui.api("GET", "/usage?group_by=day")["data"] != [])


@contextmanager
def streaming(ui: Ui) -> Iterator[Client]:
    """A request in the middle of an event stream."""
    fields = [
        f"Authorization: Bearer {ui.token(ui.ids['long'])['token']}",
        "Content-Type: application/json",
        f"X-Simulate: {json.dumps({'silence': 'body', 'after': 1})}",
    ]
    with Client(ui.gateway.address) as client:
        client.send(request(PATH, *fields, method="POST", body=CHAT.replace(b"{", b'{"stream": true, ', 1)))
        assert b" 200 " in client.until(b"\r\n\r\n")
        yield client


@pytest.mark.parametrize("name", PAGES)
def test_page_is_accessible_and_fits(page: Page, ui: Ui, name: str) -> None:
    """No violation that axe finds, in light and dark; no sideways scrolling of the page from 360 to 1600 px."""
    response = page.goto(ui.url + PAGES[name])
    assert response is not None
    assert response.status == 200
    if name in ("usage", "dashboard-used"):
        for plot in page.locator("[data-plot]").all():
            expect(plot.locator("canvas")).to_be_visible()
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        for width in (360, 1024, 1600) if theme == "light" else (1024,):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"too wide at {width}"
            picture(page, f"{name}-{width}-{theme}")


def test_the_dashboard_tells_of_traffic(page: Page, ui: Ui) -> None:
    """Six plots over the span of the address; the table behind them has the requests, and so has the file."""
    page.goto(f"{ui.url}/dashboard")
    expect(page.locator("[data-plot] canvas")).to_have_count(6)
    page.get_by_role("link", name="30 days").click()
    page.wait_for_url(f"{ui.url}/dashboard?span=30d")
    expect(page.locator("[data-plot] canvas")).to_have_count(6)
    page.get_by_text("Traffic as a table").click()
    rows = page.get_by_role("region", name="Traffic").get_by_role("row")
    expect(rows).to_have_count(31)
    requests = int(rows.nth(1).get_by_role("cell").first.inner_text().replace(",", ""))
    assert requests >= 1
    last = page.request.get(f"{ui.url}/dashboard.json?span=30d").json()[-1]
    assert (last["requests"] >= requests, last["completion_tokens"] > 0) == (True, True)


def test_the_dashboard_refreshes_itself(context_of: Callable[..., BrowserContext], ui: Ui) -> None:
    """A new token shows after half a minute; with the session's end the page leads to the sign-in."""
    key = ui.api("POST", "/keys", {"name": "refreshed", "role": "admin"})
    page = context_of().new_page()
    page.clock.install()
    sign_in(page, ui.url, key["key"])
    tokens = page.locator("a.tile", has_text="Total Tokens").locator(".value")
    before = int(tokens.inner_text())
    ui.token(ui.ids["long"])
    page.clock.fast_forward(31_000)
    expect(tokens).to_have_text(str(before + 1))
    ui.api("DELETE", f"/keys/{key['id']}")

    def has_left() -> bool:
        page.clock.fast_forward(31_000)
        return "/auth/login" in page.url

    eventually(has_left)


def test_the_audit_trail_is_verified_by_a_button(page: Page, ui: Ui) -> None:
    """The page says when, and the actor."""
    page.goto(f"{ui.url}/audit")
    page.get_by_role("button", name="Verify now").click()
    expect(page.get_by_text("The audit trail is whole")).to_be_visible()
    expect(page.get_by_label("Chain")).to_contain_text("Chain verified")


def test_a_stream_appears_and_is_cut(page: Page, ui: Ui) -> None:
    """The list refreshes by itself; a page says what is cut, and its button ends the client's response."""
    page.goto(f"{ui.url}/streams")
    with streaming(ui) as client:
        expect(page.get_by_role("row")).to_have_count(2)
        picture(page, "streams-one")
        page.get_by_role("link", name="Cut").click()
        expect(page.locator(".message.warn")).to_contain_text(f"1 stream, POST {PATH}, model gpt-4o-mini, token ")
        assert Axe().run(page).violations_count == 0
        picture(page, "streams-cut")
        page.get_by_role("button", name="Cut request").click()
        expect(page.get_by_text("The request was cut.")).to_be_visible()
        assert client.closed_within(5.0) < 3.0


def test_a_dead_letter_is_replayed_or_dropped(page: Page, ui: Ui) -> None:
    """Replay acts at once; the drop says what is lost and wants a word typed."""
    for error in ("<b>422</b> to be replayed", "422 to be dropped"):
        ui.dead_letter(error)
    page.goto(f"{ui.url}/dispatcher?reason=rejected")
    letters = page.get_by_role("region", name="Dead letters").get_by_role("row")
    expect(letters).to_have_count(3)
    picture(page, "dispatcher-letters")
    letters.filter(has_text="<b>422</b> to be replayed").get_by_role("button", name="Replay").click()
    expect(page.get_by_role("status")).to_have_text("The event is on the bus again.")
    letters.filter(has_text="to be dropped").get_by_role("link", name="Drop").click()
    expect(page.locator(".message.warn")).to_contain_text("1 event of 2 bytes")
    page.get_by_label("Type drop to confirm").fill("replay")
    page.get_by_role("button", name="Drop dead letter").click()
    expect(page.get_by_role("alert")).to_have_text("Type drop to confirm.")
    assert ui.api("GET", "/dispatcher")["dead_letters"] == 1
    page.get_by_label("Type drop to confirm").fill("drop")
    page.get_by_role("button", name="Drop dead letter").click()
    expect(page.get_by_role("status")).to_have_text("The dead letter was deleted.")
    expect(page.get_by_text("No dead letters")).to_be_visible()


def test_events_come_by_themselves(page: Page, ui: Ui) -> None:
    """An exchange shows as a row once it has ended; a filter in the address leaves others out."""
    token = ui.token(ui.ids["long"])
    page.goto(f"{ui.url}/events?token_id={token['id']}")
    expect(page.get_by_text("waiting for the next exchange")).to_be_visible()
    for bearer in (ui.token(ui.ids["long"])["token"], token["token"]):
        fields = {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"}
        assert ui.gateway.ask("POST", PATH, CHAT, headers=fields)[0] == 200
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.locator("tbody tr")).to_contain_text("ok")


def test_a_completion_streams_in_the_playground(page: Page, ui: Ui) -> None:
    """Answer, timing, usage, fields; the token is of the chosen project, and on no page."""
    page.goto(f"{ui.url}/playground?project_id={ui.ids['right-to-left']}")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_text("Done")).to_be_visible()
    expect(page.locator("[data-playground-answer]")).not_to_be_empty()
    expect(page.locator("[data-playground-facts]")).to_contain_text("completion")
    expect(page.locator("[data-playground-fields]")).to_contain_text("HTTP 200")
    picture(page, "playground-done")
    made = ui.api("GET", f"/tokens?project_id={ui.ids['right-to-left']}")
    assert [token["max_requests"] for token in made if token["name"] == "playground"] == [20]


def test_the_cache_is_purged_by_its_form(page: Page, ui: Ui) -> None:
    """A project's; without a name the form says so, and an unknown project is told."""
    page.goto(f"{ui.url}/cache")
    page.get_by_role("button", name="Purge").click()
    expect(page.get_by_text("Say what is to be removed.")).to_be_visible()
    page.get_by_label("Project id").fill(ui.ids["long"])
    page.get_by_role("button", name="Purge").click()
    expect(page.get_by_text("removed.")).to_be_visible()
    page.get_by_label("Everything").check()
    page.get_by_role("button", name="Purge").click()
    page.get_by_label("Type everything to confirm").fill("everything")
    page.get_by_role("button", name="Purge everything").click()
    expect(page.get_by_text("removed.")).to_be_visible()


@pytest.mark.parametrize("name", ["dashboard", "usage", "streams", "settings", "doctor"])
@pytest.mark.parametrize("form", ["csv", "json"])
def test_every_list_is_a_file_too(page: Page, ui: Ui, name: str, form: str) -> None:
    """At the same address with an ending."""
    response = page.request.get(f"{ui.url}/{name}.{form}")
    assert response.status == 200
    assert form in response.headers["content-type"]


def test_a_viewer_sees_no_button_that_it_may_not_use(context_of: Callable[..., BrowserContext], ui: Ui) -> None:
    """No Cut, no purge, no playground, no settings; their addresses refuse it."""
    page = sign_in(context_of().new_page(), ui.url, ui.secrets["viewer"])
    for label in ("Playground", "Settings", "Doctor"):
        assert page.get_by_role("link", name=label, exact=True).count() == 0
    with streaming(ui):
        page.goto(f"{ui.url}/streams")
        expect(page.get_by_role("row")).to_have_count(2)
        assert page.get_by_role("link", name="Cut").count() == 0
    response = page.goto(f"{ui.url}/settings")
    assert response is not None
    assert response.status == 403
