"""What holds for every call: auth first, JSON always, bodies and methods judged."""

import pytest
from support.databases import on_sqlite

from .conftest import TOKEN, Manager

pytestmark = on_sqlite

PATHS = ["/projects", "/projects/x", "/tokens", "/tokens/x", "/audit", "/audit/x", "/cache/purge", "/nowhere", ""]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "authorization",
    ["", "Basic abc", "Bearer", "Bearer  ", f"bearer{TOKEN}"],
    ids=["none", "basic", "bare", "blank", "glued"],
)
def test_without_a_bearer_nothing_is_told(manage: Manager, path: str, authorization: str) -> None:
    """401 with one text, whether the path exists or not."""
    response = manage.call("GET", path, headers={"Authorization": authorization})
    assert response.status_code == 401
    assert response.get_json() == {"error": "missing or invalid Authorization header"}
    assert response.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS", "BREW"])
def test_a_wrong_bearer_is_refused_before_the_method(manage: Manager, method: str) -> None:
    """401 for a wrong token, also where the method would be 405."""
    response = manage.call(method, "/projects", headers={"Authorization": "Bearer wrong"})
    assert (response.status_code, response.get_json()) == (401, {"error": "invalid management token"})


def test_the_scheme_is_taken_in_any_case(manage: Manager) -> None:
    """`bearer` passes as `Bearer` does."""
    assert manage.call("GET", "/projects", headers={"Authorization": f"bearer {TOKEN} "}).status_code == 200


def test_guessing_is_slowed_down_and_the_right_token_is_not(manage: Manager) -> None:
    """The 21st wrong token in a minute gets 429 with Retry-After; the right one still passes; guesses are audited."""
    wrong = [manage.call("GET", "/projects", headers={"Authorization": f"Bearer {n}"}) for n in range(22)]
    assert [response.status_code for response in wrong] == [401] * 20 + [429] * 2
    assert wrong[-1].get_json() == {"error": "too many failed attempts"}
    assert 1 <= int(wrong[-1].headers["Retry-After"]) <= 61
    assert manage.call("GET", "/projects").status_code == 200
    denied = [record for record in manage.audited() if record["action"] == "admin.access"]
    assert len(denied) == 22
    assert {(record["actor"], record["result"]) for record in denied} == {("anonymous", "denied")}


@pytest.mark.parametrize(
    ("path", "allow"),
    [("/projects", "GET, POST"), ("/projects/x", "GET, PATCH"), ("/projects/x/tokens/revoke", "POST"),
     ("/tokens", "GET, POST"), ("/tokens/x", "GET, PATCH, DELETE"), ("/audit", "GET"), ("/audit/x", "GET"),
     ("/cache/purge", "POST"), ("/tokens/lookup", "POST"), ("/tokens/revoke", "POST"),
     ("/projects/x/provider-keys", "GET")],
)  # fmt: skip
@pytest.mark.parametrize("method", ["OPTIONS", "PUT", "BREW"])
def test_other_methods_are_405_with_the_real_ones(manage: Manager, path: str, allow: str, method: str) -> None:
    """405 as JSON, and `Allow` names what works."""
    response = manage.call(method, path)
    assert (response.status_code, response.get_json()) == (405, {"error": "method not allowed"})
    assert response.headers["Allow"] == allow


@pytest.mark.parametrize("path", ["/tokens/lookup", "/tokens/revoke"])
@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_a_word_is_no_id(manage: Manager, path: str, method: str) -> None:
    """405, and nothing is looked up by it."""
    response = manage.call(method, path, {"name": "x"})
    assert (response.status_code, response.headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize("path", ["/nowhere", "/cache/entries", "/audit/a/b", "", "/"])
def test_unknown_paths_are_404_as_json(manage: Manager, path: str) -> None:
    """404 `not found`."""
    response = manage.call("GET", path)
    assert (response.status_code, response.get_json()) == (404, {"error": "not found"})


@pytest.mark.parametrize(
    ("method", "path", "said"),
    [
        ("GET", "//projects", "not found"),
        ("POST", "/projects//tokens/revoke", "invalid path"),
        ("GET", "/projects/%20", "invalid project id"),
        ("GET", "/tokens//", "token ID is required"),
        ("GET", "/tokens/%20", "token ID is required"),
        ("GET", "/audit//", "audit event ID is required"),
    ],
)
def test_a_path_without_its_id_is_told_so(manage: Manager, method: str, path: str, said: str) -> None:
    """400 that names what is missing, 404 for what is no path at all; without a bearer nothing but 401."""
    response = manage.call(method, path)
    assert (response.status_code, response.get_json()) == (404 if said == "not found" else 400, {"error": said})
    assert manage.call(method, path, headers={"Authorization": ""}).status_code == 401


def test_a_slash_at_the_end_counts_for_nothing(manage: Manager) -> None:
    """`/projects/` is `/projects`."""
    manage.project()
    assert manage.call("GET", "/projects/").get_json() == manage.call("GET", "/projects").get_json()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"null",
        b'{"name": NaN}',
        b'{"a":1e999}',
        b'{"a":1} x',
        b"\xff",
        b'{"name":"\\ud800"}',
        b"[" * 100_000,
    ],
    ids=["empty", "cut", "array", "text", "null", "nan", "infinite", "trailing", "latin1", "surrogate", "deep"],
)
@pytest.mark.parametrize("path", ["/projects", "/tokens"])
def test_a_body_that_is_no_object_is_400(manage: Manager, body: bytes, path: str) -> None:
    """400 `invalid request body`, never 500."""
    response = manage.call("POST", path, body)
    assert (response.status_code, response.get_json()) == (400, {"error": "invalid request body"})


def test_a_body_beyond_1_mib_is_413(manage: Manager) -> None:
    """413, also when the length was not declared."""
    response = manage.call("POST", "/projects", b" " * (1024 * 1024 + 1))
    assert (response.status_code, response.get_json()) == (413, {"error": "request body too large"})


def test_every_response_is_labelled(manage: Manager) -> None:
    """JSON with a newline at its end, not stored, not sniffed, with both ids, success or not."""
    for response in (manage.call("GET", "/projects"), manage.call("GET", "/nowhere"), manage.call("PUT", "/tokens")):
        assert response.headers["Content-Type"] == "application/json"
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["X-Request-ID"]
        assert response.headers["X-Correlation-ID"]
        assert response.text.endswith("\n")


def test_head_is_get_without_a_body(manage: Manager) -> None:
    """HEAD answers with GET's fields."""
    project = manage.project()
    response = manage.call("HEAD", f"/projects/{project['id']}")
    assert (response.status_code, response.data) == (200, b"")
    assert response.headers["ETag"]
