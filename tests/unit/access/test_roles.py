"""The table of roles, and what a caller may grant."""

import pytest

from llm_proxy.access.caller import CLI, ROOT, Caller
from llm_proxy.access.roles import OPERATIONS, Role, operation
from llm_proxy.errors import Forbidden, ResourceNotFound
from llm_proxy.model.addresses import is_loopback
from llm_proxy.web.management.openapi import document

METHODS = {"get", "post", "put", "patch", "delete"}


def test_the_table_and_the_description_name_the_same_operations() -> None:
    """Neither the OpenAPI document nor the table of roles has an operation that the other lacks."""
    described = {
        (method.upper(), path) for path, item in document()["paths"].items() for method in item.keys() & METHODS
    }
    assert described == set(OPERATIONS)


def test_a_route_without_a_row_is_no_route() -> None:
    """The look-up that every route goes through says where the row is missing."""
    with pytest.raises(LookupError, match=r"POST /manage/new has no row in llm_proxy/access/roles.py"):
        operation("POST", "/manage/new")


@pytest.mark.parametrize("wanted", OPERATIONS.values(), ids=lambda row: f"{row.method} {row.path}")
def test_operator_and_admin_include_the_others(wanted: object) -> None:
    """What a viewer or an issuer may do, an operator may; an admin may do everything."""
    row = OPERATIONS[wanted.method, wanted.path]  # type: ignore[attr-defined]
    assert row.allows(Role.ADMIN)
    if row.allows(Role.VIEWER) or row.allows(Role.ISSUER):
        assert row.allows(Role.OPERATOR)


def test_a_viewer_changes_nothing_and_an_issuer_sees_no_project() -> None:
    """A viewer has no right but to read; an issuer has rights for tokens alone."""
    lookup = OPERATIONS["POST", "/manage/tokens/lookup"]  # a question whose secret must stand in no address
    assert {row.method for row in OPERATIONS.values() if row.allows(Role.VIEWER) and row is not lookup} == {"GET"}
    paths = {row.path for row in OPERATIONS.values() if row.allows(Role.ISSUER)}
    assert paths == {
        "/manage/tokens", "/manage/tokens/{id}", "/manage/tokens/{id}/roll", "/manage/tokens/revoke",
        "/manage/tokens/lookup",
        "/manage/projects/{id}/tokens/revoke",
        "/manage/whoami", "/manage/openapi.json",
    }  # fmt: skip


A, B = frozenset({"a"}), frozenset({"a", "b"})


@pytest.mark.parametrize(
    ("role", "projects", "wanted", "wanted_projects", "covered"),
    [
        (Role.ADMIN, None, Role.ADMIN, None, True),
        (Role.ADMIN, B, Role.ADMIN, A, True),
        (Role.ADMIN, A, Role.VIEWER, B, False),
        (Role.ADMIN, A, Role.VIEWER, None, False),
        (Role.OPERATOR, None, Role.ADMIN, A, False),
        (Role.OPERATOR, None, Role.ISSUER, A, True),
        (Role.VIEWER, None, Role.ISSUER, A, False),
        (Role.ISSUER, None, Role.VIEWER, A, False),
    ],
)
def test_a_grant_is_within_what_is_held(
    role: Role, projects: frozenset[str] | None, wanted: Role, wanted_projects: frozenset[str] | None, covered: bool
) -> None:
    """No role, and no project, that the caller does not have itself."""
    assert Caller("key:x", role, projects).covers(wanted, wanted_projects) is covered


def test_a_refusal_names_the_role_that_would_do() -> None:
    """In its text and in its own member."""
    with pytest.raises(Forbidden, match="needs the role operator") as refused:
        Caller("key:x", Role.VIEWER).require(operation("PATCH", "/manage/tokens/{id}"))
    assert refused.value.more == {"needed_role": "operator"}
    with pytest.raises(Forbidden, match="role admin for all projects"):
        Caller("key:x", Role.ADMIN, A).require(operation("POST", "/manage/projects"))


def test_a_foreign_project_does_not_exist() -> None:
    """The text is that of an unknown one."""
    with pytest.raises(ResourceNotFound, match=r"^project not found$"):
        Caller("key:x", Role.ADMIN, A).require_project("b")
    for caller in (ROOT, CLI):
        caller.require_project("b")


@pytest.mark.parametrize(
    ("peer", "expected"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("::ffff:127.0.0.1", True), ("10.0.0.1", False),
     ("::ffff:10.0.0.1", False), ("", False), (None, False), ("localhost", False)],
)  # fmt: skip
def test_loopback_is_judged_by_the_peers_address(peer: str | None, expected: bool) -> None:
    """A Unix socket's peer has no address and is not taken for loopback."""
    assert is_loopback(peer) is expected
