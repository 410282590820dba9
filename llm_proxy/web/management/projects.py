"""/manage/projects."""

from collections.abc import Iterator, Sequence
from typing import Any

from flask import Blueprint, Response

from llm_proxy.container import Container
from llm_proxy.db.idempotency import CreationResponse
from llm_proxy.db.pagination import Order, Total
from llm_proxy.errors import BadRequest, WrongMethod
from llm_proxy.model.audit_actions import AuditAction
from llm_proxy.projects.project import NewProject, Project, ProjectPatch
from llm_proxy.projects.service import BY_NAME, SORTS, ProjectFilter, order_of
from llm_proxy.web.context import services
from llm_proxy.web.management import pagination, parsing, rendering
from llm_proxy.web.management.audited import current
from llm_proxy.web.management.idempotency import idempotent
from llm_proxy.web.management.routing import add, add_items, only

_DELETION = "project deletion is not permitted"
_Pair = tuple[Project, Total]


class _Counted:
    """The list of projects, each with how many tokens it has."""

    def __init__(self, services: Container) -> None:
        self._projects, self._counts = services.projects, services.statistics

    def page(
        self, wanted: Any, order: Order, page: int, size: int, most: int | None = None
    ) -> tuple[Sequence[_Pair], Total]:
        """See pagination.Source."""
        found, total = self._projects.page(wanted, order, page, size, most)
        return self._with_counts(found), total

    def after(self, wanted: Any, order: Order, limit: int, cursor: str | None) -> tuple[Sequence[_Pair], str | None]:
        """See pagination.Source."""
        found, following = self._projects.after(wanted, order, limit, cursor)
        return self._with_counts(found), following

    def all(self, wanted: Any, order: Order) -> Iterator[Sequence[_Pair]]:
        """See pagination.Source."""
        return map(self._with_counts, self._projects.all(wanted, order))

    def _with_counts(self, found: Sequence[Project]) -> list[_Pair]:
        counts = self._counts.tokens_of([project.id for project in found])
        return [(project, counts[project.id]) for project in found]


def _counted_json(pair: _Pair) -> dict[str, Any]:
    project, tokens = pair
    return {**rendering.project_json(project), "tokens": {"count": tokens.count, "is_more": tokens.is_more}}


def routes(bp: Blueprint) -> None:
    """Add the routes."""
    add_items(bp, "projects", "path:project_id", index=index, create=create, show=show, change=change)
    add(bp, "/projects/<path:project_id>", "DELETE", delete, is_refusal=True)
    add(bp, "/projects/<project_id>/tokens/revoke", "POST", revoke_tokens)
    only(bp, "/projects/<project_id>/tokens/revoke", "POST")


def index() -> Response:
    """200 with an array; 400 names the parameter."""
    with current().attempt(AuditAction.PROJECT_LIST, "failed to list projects") as attempt:
        asked = pagination.page_request(SORTS, order_of, BY_NAME)
        wanted = ProjectFilter(parsing.search(), parsing.flag("is_active"), current().caller.projects, parsing.ids())
        if parsing.flag("token_counts"):
            response, count = pagination.listed(_Counted(services()), wanted, asked, _counted_json)
        else:
            response, count = pagination.listed(services().projects, wanted, asked, rendering.project_json)
        attempt.succeeded(project_count=count)
    return response


def create() -> Response:
    """201 with the project; 400 names the field; 409 the name is taken."""
    attempt = current().attempt(AuditAction.PROJECT_CREATE, "failed to create project")
    with attempt, idempotent(services().idempotency, attempt) as creation:
        if creation.is_due:
            wants_sk, wants_key = services().wants_sk_keys, not services().settings.upstream.providers
            new = NewProject.from_json(parsing.json_object(), wants_sk=wants_sk, wants_key=wants_key)
            with attempt.transaction() as tx:
                creation.keep(tx, _created(services().projects.create(tx, new)))
    return creation.response()


def show(project_id: str) -> Response:
    """200 with the project; 404."""
    with current().attempt(AuditAction.PROJECT_READ, "failed to get project", project_id=project_id) as attempt:
        project = services().projects.get(checked(project_id))
        attempt.succeeded()
    return rendering.project_response(project)


def change(project_id: str) -> Response:
    """200 with the project; 400 names the field; 404; 409 the name is taken; 412."""
    about = {"provided_id": project_id}
    with current().attempt(
        AuditAction.PROJECT_UPDATE, "failed to update project", project_id=project_id, details=about
    ) as attempt:
        patch = ProjectPatch.from_json(_with_id(project_id), wants_sk=services().wants_sk_keys)
        with attempt.transaction(rendering.project_tag) as tx:
            project = services().projects.update(tx, project_id, patch)
    return rendering.project_response(project)


def delete(project_id: str) -> Response:
    """405, always; whether the project exists is not looked up."""
    with current().attempt(AuditAction.PROJECT_DELETE, _DELETION, project_id=project_id):
        refused = WrongMethod(["GET", "PATCH"])
        refused.audit = {"error_type": refused.message, "reason": _DELETION}
        refused.more = {"message": _DELETION}
        raise refused


def revoke_tokens(project_id: str) -> Response:
    """200 with counts; 404."""
    with current().attempt(
        AuditAction.TOKEN_REVOKE_BATCH, "failed to get project tokens", project_id=project_id
    ) as attempt:
        checked(project_id)
        with attempt.transaction() as tx:
            found = services().projects.revoke_tokens(tx, project_id)
    counts = {
        "revoked_count": found.revoked,
        "already_revoked_count": found.already,
        "total_tokens": found.total,
    }
    return rendering.json_response(counts)


def _created(project: Project) -> CreationResponse:
    headers = {"Location": f"/manage/projects/{project.id}", "ETag": rendering.project_tag(project)}
    return CreationResponse(201, headers, rendering.project_json(project))


def checked(project_id: str) -> str:
    """Return an id that may be looked up. Raises BadRequest, and ResourceNotFound where it is none of the caller's."""
    if "/" in project_id or not project_id.strip():
        raise BadRequest("invalid project id", param="id", audit={"validation_error": "invalid project id"})
    current().caller.require_project(project_id)
    return project_id.replace("\x00", "\ufffd")


def _with_id(project_id: str) -> dict[str, object]:
    """Return the body; the path is judged first."""
    checked(project_id)
    return parsing.json_object()
