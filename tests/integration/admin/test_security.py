"""The admin UI under attack: forms of other sites, texts with markup, roles, read-only mode, hosts."""

import re
from typing import Any

import pytest
from support.databases import on_sqlite
from werkzeug.routing import Rule

from llm_proxy.web.admin import frame

from .conftest import KEY, Pages, csrf_of

pytestmark = on_sqlite
MARKUP = "\"><script>alert(1)</script><img src=x onerror='alert(1)'>"
_OPEN = {"admin.sign_in_submit"}


def _rules(pages: Pages, *methods: str) -> list[tuple[str, Rule]]:
    """Each route of the UI that takes one of these methods, and a path for it."""
    found = []
    for rule in pages.app.url_map.iter_rules():
        if rule.endpoint.startswith("admin.") and rule.methods and rule.methods & set(methods):
            values = {name: "csv" if name == "form" else "x" for name in rule.arguments} | {"measure": "requests"}
            with pages.app.test_request_context():
                built = pages.app.url_map.bind("").build(rule.endpoint, values, method=methods[0])
            found.append((built.partition("?")[0], rule))
    return found


def test_every_form_of_another_site_is_refused(pages: Pages) -> None:
    """403 for each POST, PUT and DELETE without the session's token, and for one from another origin."""
    tried = 0
    for path, rule in _rules(pages, "POST"):
        if rule.endpoint in _OPEN:
            continue
        foreign = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
        for form, headers in (({}, {}), ({"csrf_token": "0" * 64}, {}), ({"csrf_token": pages.csrf()}, foreign)):
            response = pages.browser.post(path, data=form, headers=headers)
            assert response.status_code == 403, (path, form, response.status)
            tried += 1
    assert tried > 60
    assert pages.browser.post("/admin/auth/login", data={"management_token": "x"}).status_code == 403


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=b"])
def test_a_form_of_any_size_is_not_read(pages: Pages, content_type: str) -> None:
    """413, with a session and before sign-in, for each route: Werkzeug reads a form in one go, and files to disk."""
    browser = pages.app.test_client()
    browser.get("/admin/auth/login")
    form = b'--b\r\nContent-Disposition: form-data; name="a"; filename="b"\r\n\r\n' + b"a&" * 40_000
    response = browser.post("/admin/auth/login", data=form, content_type=content_type)
    assert response.status_code == 413, response.text
    assert "65,536 bytes" in response.text
    for path, rule in _rules(pages, "POST"):
        if rule.endpoint not in _OPEN | {"admin.sign_out"}:
            assert pages.browser.post(path, data=form, content_type=content_type).status_code == 413, path


def test_every_page_keeps_out_of_frames_caches_and_foreign_scripts(pages: Pages) -> None:
    """Whatever its status, without inline script, style or handler, and with no address of another host."""
    for path, rule in _rules(pages, "GET"):
        if rule.endpoint in ("admin.static", "admin.events_stream", "admin.sign_out_page"):
            continue
        response = pages.browser.get(path)
        response.get_data()  # a file is made while it is read
        assert response.status_code < 500, path
        headers = response.headers
        assert headers["X-Frame-Options"] == "DENY", path
        policy = headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["Cache-Control"] == "no-store", path
        assert headers["Referrer-Policy"] == "same-origin", path
        if response.mimetype == "text/html":
            for wrong in (" style=", " onclick=", "javascript:", "<style", "hx-on", 'src="http', "js:"):
                assert wrong not in response.text, (path, wrong)


def test_texts_of_others_are_text(pages: Pages) -> None:
    """Names, notes, metadata, actors, user agents and model names stand escaped on each page that shows them."""
    project = pages.api("POST", "/projects", {"name": MARKUP, "api_key": KEY}, User_Agent=MARKUP)
    about = {"project_id": project["id"], "duration_minutes": 60, "name": MARKUP, "metadata": {"note": MARKUP}}
    token = pages.api("POST", "/tokens", about)
    pages.api("POST", "/keys", {"name": MARKUP[:60], "role": "viewer"})
    record = next(each for each in pages.api("GET", "/audit?action=project.create")["events"])
    with pages.app.services.engine.begin() as connection:
        values = "(date('now'), ?, ?, ?, 3, 1, 1, 0, 0, 0, 5)"
        columns = (
            "day, project_id, token_id, model, requests, prompt_tokens, completion_tokens, cached_tokens,"
            " reasoning_tokens, estimated, cost_nano_usd"
        )
        connection.exec_driver_sql(
            f"INSERT INTO usage_daily ({columns}) VALUES {values}", (project["id"], token["id"], MARKUP)
        )
    for path in (
        "/projects", f"/projects/{project['id']}", f"/projects/{project['id']}/edit",
        f"/projects/{project['id']}/deactivate",
        "/tokens", f"/tokens/{token['id']}", f"/tokens/{token['id']}/edit", f"/tokens/{token['id']}/revoke", "/keys",
        "/audit", f"/audit/{record['id']}", "/usage?group=model", "/usage?group=project", "/playground", "/dashboard",
    ):  # fmt: skip
        page = pages.get(path)
        assert page.status_code == 200, path
        assert "<script>alert" not in page.text, path
        assert "<img src=x" not in page.text, path
    assert "&lt;script&gt;" in pages.get("/usage?group=model").text
    assert "&lt;script&gt;" in pages.get(f"/audit/{record['id']}").text


def test_texts_of_the_address_are_text(pages: Pages) -> None:
    """What a link carries is shown escaped, or refused."""
    names = ("search", "project_id", "status", "sort", "span", "outcome", "from", "group")
    for path in ("/tokens", "/projects", "/audit", "/usage", "/dashboard", "/events", "/streams", "/settings"):
        for query in [dict.fromkeys(names, MARKUP), *({name: MARKUP} for name in names)]:
            response = pages.get(path, query_string=query)
            assert response.status_code in (200, 400), (path, query)
            assert "<script>alert" not in response.text, (path, query)


def test_a_sign_in_leads_nowhere_else(pages: Pages) -> None:
    """`next` is a path of the UI, or refused."""
    for target in (
        "https://evil.example/", "//evil.example", "/\\evil.example", "/admin/../x", "javascript:alert(1)", "/manage",
    ):  # fmt: skip
        response = pages.get("/auth/login", query_string={"next": target})
        assert response.status_code == 400, target
        assert "Location" not in response.headers


@pytest.mark.parametrize("path", ["/projects/%C3%BC", "/projects/a%20b", "/projects/x%2f..%2fy"])
def test_an_ended_session_leads_to_the_sign_in_from_any_address(pages: Pages, path: str) -> None:
    """Also from one that the sign-in would not lead back to."""
    found = pages.app.test_client().get(f"/admin{path}", follow_redirects=True)
    assert (found.status_code, found.request.path) == (200, "/admin/auth/login")


def test_the_address_without_a_slash_is_not_moved_for_ever(pages: Pages) -> None:
    """302 to the dashboard; redirects are paths, so that no Host that a client sends gets into one."""
    response = pages.get("")
    assert (response.status_code, response.headers["Location"]) == (302, "/admin/dashboard")
    assert pages.get("", headers={"Host": "evil.example"}).headers["Location"].startswith("/admin/auth/login")


@pytest.mark.parametrize(
    ("came_from", "back"),
    [
        ("http://localhost/admin/tokens?page=2", "/admin/tokens?page=2"),
        ("http://evil.example/admin/tokens", None),
        ("http://localhost.evil.example/admin/", None),
        ("http://localhost/admin/../manage", None),
        ("", None),
    ],
)
def test_an_error_page_leads_back_to_pages_of_this_ui(pages: Pages, came_from: str, back: str | None) -> None:
    """By a path, and to no other site."""
    text = pages.get("/nothing", headers={"Referer": came_from}).text
    assert "evil" not in text
    assert ("</svg> Back</a>" in text) == (back is not None)
    assert back is None or f'href="{back}"' in text


def test_packaged_files_are_kept_for_long_under_their_version_alone(pages: Pages) -> None:
    """The address of a page's stylesheet is immutable; another version, or none, is asked for again."""
    address = re.search(r"/admin/static/admin\.css\?v=\w+", pages.get("/tokens").text)
    assert address is not None
    wanted = {address[0]: "public, max-age=31536000, immutable"}
    wanted |= {f"/admin/static/admin.css{query}": "no-cache" for query in ("", "?v=old")}
    for path, kept in wanted.items():
        with pages.browser.get(path) as response:
            assert response.headers["Cache-Control"] == kept, path


def test_a_session_is_not_fixed(pages: Pages) -> None:
    """A cookie that was planted before the sign-in is not the session after it; the old one ends."""
    browser = pages.app.test_client()
    browser.set_cookie("llmproxy_session", "planted", path="/admin")
    pages.sign_in(browser, "test-management-token")
    first = browser.get_cookie("llmproxy_session", path="/admin")
    assert first is not None
    assert first.value != "planted"
    again = pages.app.test_client()
    again.set_cookie("llmproxy_session", first.value, path="/admin")
    assert again.get("/admin/tokens").status_code == 200
    browser.post("/admin/auth/logout", data={"csrf_token": _csrf(browser)})
    assert again.get("/admin/tokens").status_code == 303


def _csrf(browser: Any) -> str:
    return csrf_of(browser.get("/admin/tokens").text)


def test_a_viewer_can_do_nothing_by_hand_made_forms(pages: Pages) -> None:
    """Each POST of the UI with the viewer's own token: refused, or nothing that changes."""
    key = pages.api("POST", "/keys", {"name": "looks", "role": "viewer"})
    project = pages.api("POST", "/projects", {"name": "kept", "api_key": KEY})
    token = pages.api("POST", "/tokens", {"project_id": project["id"], "duration_minutes": 60})
    browser = pages.app.test_client()
    pages.sign_in(browser, key["key"])
    csrf = _csrf(browser)
    ids = {"project_id": project["id"], "token_id": token["id"], "key_id": key["id"]}
    for rule in pages.app.url_map.iter_rules():
        if not rule.endpoint.startswith("admin.") or "POST" not in (rule.methods or ()):
            continue
        if rule.endpoint in ("admin.sign_in_submit", "admin.sign_out", "admin.jump"):
            continue
        values = {name: ids.get(name, "x") for name in rule.arguments}
        path = pages.app.url_map.bind("").build(rule.endpoint, values, method="POST")
        form = {
            "csrf_token": csrf, "_method": "PUT", "name": "taken", "api_key": KEY, "project_id": project["id"],
            "duration_minutes": "60", "is_active": "false", "role": "admin", "scope": "all",
            "confirm_count": "everything", "ids": token["id"], "form_id": "0" * 32, "event_privacy": "full",
        }  # fmt: skip
        response = browser.post(path, data=form)
        assert response.status_code in (303, 400, 403, 404, 405, 422, 502), (path, response.status)
    assert [each["name"] for each in pages.api("GET", "/projects")] == ["kept"]
    assert [each["is_active"] for each in pages.api("GET", "/tokens")] == [True]
    assert [each["role"] for each in pages.api("GET", "/keys")] == ["viewer"]


def test_pages_that_ask_are_refused_with_the_same_right_as_what_they_ask_for(pages: Pages) -> None:
    """A viewer gets 403 for each form and each question, and no link to one; an administrator gets the page."""
    key = pages.api("POST", "/keys", {"name": "looks", "role": "viewer"})
    project = pages.api("POST", "/projects", {"name": "kept", "api_key": KEY})["id"]
    token = pages.api("POST", "/tokens", {"project_id": project, "duration_minutes": 60})["id"]
    session = pages.api("GET", "/sessions")[0]["id"]
    viewer = pages.app.test_client()
    pages.sign_in(viewer, key["key"])
    asking = (
        "/projects/new", f"/projects/{project}/edit", f"/projects/{project}/revoke-tokens",
        f"/projects/{project}/deactivate", f"/projects/{project}/provider-keys", "/tokens/new", f"/tokens/{token}/edit",
        f"/tokens/{token}/roll", f"/tokens/{token}/revoke", f"/tokens/revoke?ids={token}", "/keys/new",
        f"/keys/{key['id']}/edit", f"/keys/{key['id']}/roll", f"/keys/{key['id']}/revoke", f"/people/{session}/end",
    )  # fmt: skip
    offered = "".join(viewer.get(f"/admin{path}").text for path in ("/projects", "/tokens", f"/tokens/{token}"))
    offered += viewer.get(f"/admin/projects/{project}").text + viewer.get("/admin/people").text
    for path in asking:
        assert viewer.get(f"/admin{path}").status_code == 403, path
        assert pages.get(path).status_code == 200, path
        assert f'href="/admin{path}"' not in offered, path


@pytest.mark.parametrize("role", ["viewer", "issuer", "operator", "admin"])
def test_pages_answer_those_to_whom_the_navigation_offers_them(pages: Pages, role: str) -> None:
    """All others get 403, but the dashboard, which every sign-in leads to."""
    browser = pages.app.test_client()
    pages.sign_in(browser, pages.api("POST", "/keys", {"name": role, "role": role})["key"])
    offered = set(re.findall(r'<a href="(/admin/[a-z]+)"', browser.get("/admin/tokens").text))
    every = {f"/admin/{page.endpoint}" for _, entries in frame.SECTIONS for page in entries}
    assert "/admin/tokens" in offered <= every
    answered = {path for path in every if browser.get(path).status_code == 200}
    assert answered == offered | {"/admin/dashboard"}


@pytest.mark.parametrize("role", ["viewer", "issuer", "operator"])
def test_files_answer_those_whom_the_api_answers(pages: Pages, role: str) -> None:
    """All others get 403, not a file without rows."""
    project = pages.api("POST", "/projects", {"name": "files", "api_key": KEY})["id"]
    token = pages.api("POST", "/tokens", {"project_id": project, "duration_minutes": 60})["id"]
    key = pages.api("POST", "/keys", {"name": role, "role": role})["key"]
    browser, api = pages.app.test_client(), {"Authorization": f"Bearer {key}"}
    pages.sign_in(browser, key)
    for file, asked in (
        (f"/tokens/{token}", "/outcomes?group_by=code"),
        (f"/tokens/{token}/refusals", f"/tokens/{token}/refusals"),
        ("/dashboard", "/traffic"),
        ("/dispatcher", "/dispatcher/dead-letters"),
        ("/usage", "/usage"),
        ("/audit", "/audit"),
        ("/keys", "/keys"),
    ):
        wanted = 403 if browser.get(f"/manage{asked}", headers=api).status_code == 403 else 200
        for form in ("csv", "json"):
            assert browser.get(f"/admin{file}.{form}").status_code == wanted, (file, form)


def test_the_end_of_a_session_is_asked_for_first(pages: Pages) -> None:
    """The page says whose session it is and when it was used; the form ends it; an unknown one is 404."""
    other = pages.app.test_client()
    pages.sign_in(other, pages.api("POST", "/keys", {"name": "other", "role": "viewer"})["key"])
    session = next(each["id"] for each in pages.api("GET", "/sessions") if each["actor"] == "key:other")
    asked = pages.get(f"/people/{session}/end").text
    assert "1 session with the role viewer, began 0 s ago, last seen 0 s ago" in asked
    assert "the session that you use now" not in asked
    assert other.get("/admin/tokens").status_code == 200
    assert pages.post(f"/people/{session}/end").status_code == 303
    assert other.get("/admin/tokens").status_code == 303
    assert pages.get(f"/people/{session}/end").status_code == 404
    own = pages.api("GET", "/sessions")[0]["id"]
    assert "the session that you use now" in pages.get(f"/people/{own}/end").text


def test_the_list_of_projects_tells_token_counts(pages: Pages) -> None:
    """On the page, as a link to the tokens, and in both files."""
    project = pages.api("POST", "/projects", {"name": "two", "api_key": KEY})["id"]
    for _ in range(2):
        pages.api("POST", "/tokens", {"project_id": project, "duration_minutes": 60})
    assert f'href="/admin/tokens?project_id={project}">2<' in pages.get("/projects").text
    assert pages.get("/projects.csv").text.splitlines()[1].endswith(",2")
    assert pages.get("/projects.json").get_json()[0]["token_count"] == "2"
    assert "1 token that is not revoked" not in pages.get(f"/projects/{project}/deactivate").text
    assert "Without the tick this hits 2 tokens that are not revoked" in pages.get(f"/projects/{project}/edit").text


class TestReadOnly:
    """ADMIN_UI_READ_ONLY."""

    @pytest.fixture
    def more_settings(self) -> dict[str, Any]:
        """Forbid changes."""
        return {"operation.admin_ui_read_only": True}

    def test_pages_offer_and_take_no_change(self, pages: Pages) -> None:
        """Each form is 403; pages have no button for one; the jump box and the sign-out work."""
        pages.api("POST", "/projects", {"name": "seen", "api_key": KEY})
        csrf = pages.csrf()
        for path, rule in _rules(pages, "POST"):
            if rule.endpoint in ("admin.sign_in_submit", "admin.sign_out", "admin.jump"):
                continue
            response = pages.browser.post(path, data={"csrf_token": csrf})
            assert response.status_code == 403, path
            assert "read-only" in response.text
        for path in ("/projects", "/tokens", "/cache", "/audit", "/keys", "/dashboard"):
            assert pages.get(path).text.count('method="post"') == 3, path  # the jump box, and two buttons to sign out
        for path in ("/projects/new", "/tokens/new", "/keys/new", "/tokens/x/revoke"):
            assert "read-only" in pages.get(path).text, path
        assert pages.post("/jump", q="seen").status_code == 303
        assert pages.post("/auth/logout").status_code == 200


def test_everything_is_purged_after_a_word_only(pages: Pages) -> None:
    """The first form asks, a wrong word is 422, the right one purges."""
    asked = pages.post("/cache/purge", scope="all")
    assert (asked.status_code, "Impact" in asked.text) == (200, True)
    assert pages.post("/cache/purge", scope="all", confirm_count="all").status_code == 422
    assert pages.post("/cache/purge", scope="all", confirm_count="everything").status_code in (303, 400, 404)


def test_more_than_twenty_tokens_need_their_number_typed(pages: Pages) -> None:
    """Before their project is deactivated: 422 without it, and the page says what is hit."""
    project = pages.api("POST", "/projects", {"name": "large", "api_key": KEY})["id"]
    for _ in range(21):
        pages.api("POST", "/tokens", {"project_id": project, "duration_minutes": 60})
    refused = pages.post(f"/projects/{project}/deactivate")
    assert (refused.status_code, "21 tokens that are not revoked" in refused.text) == (422, True)
    assert pages.api("GET", f"/projects/{project}")["is_active"] is True
    assert pages.post(f"/projects/{project}/deactivate", confirm_count="21").status_code == 303
    assert pages.api("GET", f"/projects/{project}")["is_active"] is False
