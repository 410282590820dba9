"""Sign-in at an OpenID provider: what works, and each way of cheating that must not."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text
from support.databases import on_sqlite

from llm_proxy.access.roles import Role

from .conftest import People


def test_a_person_signs_in(people: People) -> None:
    """The browser returns to its page with a session that names the person and its role; the record says so."""
    response = people.come_back(people.begin(target="/admin/tokens?page=2"))
    assert (response.status_code, response.headers["Location"]) == (303, "/admin/tokens?page=2")
    cookie = next(value for value in response.headers.getlist("Set-Cookie") if value.startswith("llmproxy_session="))
    assert {"HttpOnly", "SameSite=Lax", "Path=/admin"} <= set(cookie.split("; "))
    session = people.app.services.sessions.load(people.held() or "", peer="127.0.0.1")
    assert session is not None
    assert (session.caller.actor, session.caller.role, session.caller.projects) == (
        "oidc:anna@example.com", Role.ADMIN, None,
    )  # fmt: skip
    assert round((session.expires_at - session.created_at).total_seconds()) == 12 * 3600
    (record,) = people.audited("admin.login")
    assert (record["actor"], record["result"], record["details"]["method"]) == (
        "oidc:anna@example.com",
        "success",
        "oidc",
    )
    assert people.issuer.seen[0]["code_verifier"]


@pytest.mark.parametrize(
    ("groups", "role", "projects"),
    [
        (["ml"], Role.OPERATOR, {"project-a"}),
        (["ml", "ml2", "others"], Role.OPERATOR, {"project-a", "project-b"}),
        (["readers", "ml"], Role.OPERATOR, {"project-a"}),
        (["readers"], Role.VIEWER, None),
    ],
)
@on_sqlite
def test_groups_become_a_role(people: People, groups: list[str], role: Role, projects: set[str] | None) -> None:
    """The strongest role that matches, for the projects of its own entries."""
    people.issuer.person("bob@example.com", *groups)
    people.sign_in()
    session = people.app.services.sessions.load(people.held() or "", peer=None)
    assert session is not None
    assert (session.caller.role, session.caller.projects) == (role, projects)


@on_sqlite
def test_who_has_no_role_is_told_which_claims_were_seen(people: People) -> None:
    """403 with names of claims, never their values; no session; recorded as denied."""
    people.issuer.person("eve@example.com", "secret-group")
    response = people.sign_in()
    assert response.status_code == 403
    assert "groups" in response.text
    assert "email_verified" in response.text
    assert "secret-group" not in response.text
    assert people.held() is None
    assert people.audited("admin.login")[-1]["result"] == "denied"


def _claims(**changed: Any) -> Callable[[People], None]:
    return lambda people: people.issuer.claims.update(changed)


def _header(**changed: Any) -> Callable[[People], None]:
    return lambda people: people.issuer.header.update(changed)


FORGERIES = {
    "wrong nonce": _claims(nonce="another"),
    "no nonce": _claims(nonce=None),
    "foreign audience": _claims(aud="another-client"),
    "two audiences, other party": _claims(aud=["llm-proxy-ui", "other"], azp="other"),
    "foreign issuer": _claims(iss="https://other.example"),
    "expired": _claims(exp=int(time.time()) - 3600),
    "from the future": _claims(iat=int(time.time()) + 3600, nbf=int(time.time()) + 3600),
    "no subject": _claims(sub=None),
    "alg none": _header(alg="none"),
    "signed with the public key": _header(alg="HS256"),
    "unknown key": _header(kid="other"),
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES.keys())
@on_sqlite
def test_a_forged_id_token_is_refused(people: People, forge: Callable[[People], None]) -> None:
    """403, nothing is set, and the refusal is in the audit trail."""
    callback = people.begin()
    forge(people)
    response = people.come_back(callback)
    assert response.status_code == 403, response.text
    assert "Set-Cookie" not in response.headers
    assert people.held() is None
    assert [record["result"] for record in people.audited("admin.login")] == ["denied"]


def test_a_code_is_used_once(people: People) -> None:
    """The same return again is refused, in the same browser, even by a provider that forgets nothing."""
    people.issuer.forgets_codes = False
    callback = people.begin()
    assert people.come_back(callback).status_code == 303
    again = people.come_back(callback)
    assert again.status_code == 403
    assert "Set-Cookie" not in again.headers


@on_sqlite
def test_a_return_belongs_to_the_browser_that_began(people: People) -> None:
    """Another browser with the same link, and this browser with another's state, are refused; the own one works."""
    other = people.app.test_client()
    mine, foreign = people.begin(), people.begin(other)
    assert people.come_back(mine, other).status_code == 403
    assert people.come_back({**mine, "state": foreign["state"]}).status_code == 403
    assert people.come_back({**mine, "state": "x"}).status_code == 403
    assert people.held(other) is None
    assert people.come_back(mine).status_code == 303


@on_sqlite
def test_two_tabs_sign_in_at_once(people: People) -> None:
    """Both returns work; the browser holds the newer session, and the older is over."""
    first, second = people.begin(), people.begin()
    people.come_back(first)
    older = people.held() or ""
    assert people.come_back(second).status_code == 303
    sessions = people.app.services.sessions
    assert sessions.load(people.held() or "", peer=None) is not None
    assert sessions.load(older, peer=None) is None


@pytest.mark.parametrize("iss", ["https://other.example", None], ids=["another's", "missing"])
@on_sqlite
def test_the_response_of_another_provider_is_refused(people: People, iss: str | None) -> None:
    """The mix-up attack: `iss` differs, or is missing where the provider promises it (RFC 9207)."""
    callback = {name: value for name, value in {**people.begin(), "iss": iss}.items() if value is not None}
    assert people.come_back(callback).status_code == 403
    assert people.issuer.seen == []


@pytest.mark.parametrize(
    "target",
    ["https://evil.example/", "//evil.example/", "/\\evil.example", "/v1/models", "/admin/../manage", "/admin\n",
     "/administrator", "javascript:alert(1)", "/admin/%2e%2e/x"],
)  # fmt: skip
@on_sqlite
def test_no_way_leads_elsewhere(people: People, target: str) -> None:
    """400 before the provider is asked; nothing is set; recorded."""
    response = people.browser.get("/admin/auth/oidc/login", query_string={"next": target})
    assert response.status_code == 400
    assert "Set-Cookie" not in response.headers
    assert [record["result"] for record in people.audited("admin.login")] == ["denied"]


@on_sqlite
def test_an_issuer_that_is_down_ends_no_session(people: People) -> None:
    """502 at a sign-in; open sessions stay, and the root token is another way in."""
    people.sign_in()
    people.issuer.is_down = True
    people.app.services.sign_in.oidc._metadata = None  # type: ignore[union-attr]
    assert people.app.test_client().get("/admin/auth/oidc/login").status_code == 502
    services = people.app.services
    assert services.sessions.load(people.held() or "", peer=None) is not None
    origin = services.sign_in.by_secret("test-management-token", peer="127.0.0.1", client_ip="127.0.0.1")
    assert origin.caller.actor == "root"


def test_signing_out_ends_both_sessions(people: People) -> None:
    """POST with the form's token: the row is gone, the provider is asked to end its own; GET only asks."""
    people.sign_in()
    held = people.held() or ""
    page = people.browser.get("/admin/auth/logout")
    form_token = page.text.partition('name="csrf_token" value="')[2].partition('"')[0]
    assert people.browser.post("/admin/auth/logout", data={"csrf_token": "0" * 64}).status_code == 403
    foreign = {"Origin": "https://evil.example"}
    assert (
        people.browser.post("/admin/auth/logout", data={"csrf_token": form_token}, headers=foreign).status_code == 403
    )
    out = people.browser.post("/admin/auth/logout", data={"csrf_token": form_token})
    assert out.status_code == 200
    assert out.headers["Refresh"].startswith(f"0; url={people.issuer.url}/logout?")
    assert "id_token_hint=" in out.headers["Refresh"]
    assert people.held() is None
    assert people.app.services.sessions.load(held, peer=None) is None
    assert [record["actor"] for record in people.audited("admin.logout")] == ["oidc:anna@example.com"]
    with people.app.services.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM admin_sessions")).scalar_one() == 0


@on_sqlite
def test_pages_have_the_fields_that_guard_them(people: People) -> None:
    """No frames, no foreign content, no caches."""
    headers = people.browser.get("/admin/auth/logout").headers
    assert headers["X-Frame-Options"] == "DENY"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"
