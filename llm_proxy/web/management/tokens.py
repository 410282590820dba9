"""/manage/tokens."""

import re
from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Response

from llm_proxy.crypto import digest
from llm_proxy.db.idempotency import CreationResponse
from llm_proxy.errors import BadRequest
from llm_proxy.model.audit_actions import AuditAction
from llm_proxy.model.token import STATUSES
from llm_proxy.tokens.service import NEWEST_FIRST, SORTS, Issued, TokenFilter, order_of
from llm_proxy.tokens.token import NewToken, TokenDefaults, TokenPatch
from llm_proxy.web.context import services
from llm_proxy.web.management import pagination, parsing, rendering
from llm_proxy.web.management.audited import current
from llm_proxy.web.management.idempotency import idempotent
from llm_proxy.web.management.overlap import overlap
from llm_proxy.web.management.routing import add, add_items, named_project, only

MOST_REVOKED = 200  # ids of one call; all of them stand in its audit record

_SHA256 = re.compile("[0-9A-Fa-f]{64}")


def routes(bp: Blueprint) -> None:
    """Add the routes."""
    add_items(bp, "tokens", "token_id", index=index, create=create, show=show, change=change)
    add(bp, "/tokens/<token_id>", "DELETE", revoke)
    add(bp, "/tokens/<token_id>/roll", "POST", roll)
    add(bp, "/tokens/lookup", "POST", lookup)
    add(bp, "/tokens/revoke", "POST", revoke_several)
    only(bp, "/tokens/lookup", "POST")
    only(bp, "/tokens/revoke", "POST")


def index() -> Response:
    """200 with an array; 400 names the parameter."""
    with current().attempt(AuditAction.TOKEN_LIST, "failed to list tokens") as attempt:
        asked = pagination.page_request(SORTS, order_of, NEWEST_FIRST)
        wanted = _filter()
        response, count = pagination.listed(services().tokens, wanted, asked, rendering.token_json)
        attempt.project_id = wanted.project_id
        attempt.succeeded(token_count=count, filtered_by_project=wanted.project_id is not None)
    return response


def create() -> Response:
    """200 with the bearer, shown this once; 400 names the field; 403 inactive, 404 unknown project."""
    with current().attempt(AuditAction.TOKEN_CREATE, "failed to store token") as attempt:
        project_id = named_project()
        if project_id is not None:  # before a response is repeated: the caller may see less than it did then
            current().caller.require_project(project_id)
        with idempotent(services().idempotency, attempt) as creation:
            if creation.is_due:
                wanted = parsing.json_object()
                asked = wanted.get("project_id")
                attempt.project_id = asked if isinstance(asked, str) else None
                defaults = TokenDefaults.from_settings(services().settings.tokens)
                new = NewToken.from_json(wanted, defaults, services().provider_names)
                with attempt.transaction() as tx:
                    creation.keep(tx, _created(services().tokens.issue(tx, new)))
    return creation.response()


def show(token_id: str) -> Response:
    """200 with the token; 404."""
    with current().attempt(AuditAction.TOKEN_READ, "failed to get token", details=_about(token_id)) as attempt:
        token = services().tokens.get(_checked(token_id), current().caller.projects)
        attempt.project_id = token.project_id
        attempt.succeeded()
    return rendering.token_response(token)


def lookup() -> Response:
    """Return 200 with the token of the bearer, or of its hash, in the body, which no address contains; 404."""
    with current().attempt(AuditAction.TOKEN_READ, "failed to get token") as attempt:
        hashed = _hash(parsing.json_object())
        token = services().tokens.by_hash(hashed, current().caller.projects)
        attempt.project_id = token.project_id
        attempt.succeeded(token_id=token.id)
    return rendering.token_response(token)


def change(token_id: str) -> Response:
    """200 with the token; 400 names the field; 404; 409 expired; 412."""
    with current().attempt(AuditAction.TOKEN_UPDATE, "failed to update token", details=_about(token_id)) as attempt:
        _checked(token_id)
        patch = TokenPatch.from_json(parsing.json_object(), services().provider_names)
        with attempt.transaction(rendering.token_tag) as tx:
            token = services().tokens.update(tx, token_id, patch)
    return rendering.token_response(token)


def revoke(token_id: str) -> Response:
    """204, also the second time; 404."""
    with current().attempt(AuditAction.TOKEN_REVOKE, "failed to revoke token", details=_about(token_id)) as attempt:
        _checked(token_id)
        with attempt.transaction(rendering.token_tag) as tx:
            services().tokens.revoke(tx, token_id)
    return rendering.no_content()


def roll(token_id: str) -> Response:
    """Return 200 with a new bearer, shown this once; the old token ends after `overlap_minutes`; 409; 412."""
    with current().attempt(AuditAction.TOKEN_ROLL, "failed to store token", details=_about(token_id)) as attempt:
        services().tokens.get(_checked(token_id), current().caller.projects)
        span = overlap()
        with idempotent(services().idempotency, attempt) as creation:
            if creation.is_due:
                with attempt.transaction(rendering.token_tag) as tx:
                    creation.keep(tx, _created(services().tokens.roll(tx, token_id, span)))
    return creation.response()


def revoke_several() -> Response:
    """Return 200 with counts, and the ids that name no token of the caller's; 400 names the field."""
    with current().attempt(AuditAction.TOKEN_REVOKE_BATCH, "failed to revoke tokens") as attempt:
        ids = _ids(parsing.json_object())
        with attempt.transaction() as tx:
            found = services().tokens.revoke_these(tx, ids)
    counts = {"revoked_count": found.revoked, "already_revoked_count": found.already}
    return rendering.json_response({**counts, "unknown_ids": found.unknown})


def _hash(body: Mapping[str, Any]) -> str:
    """Return the hash of the token that a body asks for. Raises BadRequest."""
    bearer, hashed = body.get("token"), body.get("sha256")
    if hashed is None or bearer is not None:
        if not isinstance(bearer, str) or not bearer or hashed is not None:
            raise BadRequest("token must be a text that is not empty; sha256 may stand in its place", param="token")
        return digest(bearer)
    if not isinstance(hashed, str) or not _SHA256.fullmatch(hashed):
        raise BadRequest("sha256 must be 64 hexadecimal digits", param="sha256")
    return hashed.lower()


def _created(issued: Issued) -> CreationResponse:
    headers = {"ETag": rendering.token_tag(issued.token), "Location": f"/manage/tokens/{issued.token.id}"}
    return CreationResponse(200, headers, rendering.issued_json(issued), secret="token")  # noqa: S106  (a member's name)


def _filter() -> TokenFilter:
    status = parsing.parameter("status")
    if status is not None and status not in STATUSES:
        raise parsing.invalid("status")
    return TokenFilter(
        project_id=parsing.word("projectId", "project_id"),
        active_only=parsing.flag("activeOnly", "active_only") or False,
        status=status,
        search=parsing.search(),
        within=current().caller.projects,
        ids=parsing.ids(),
    )


def _ids(wanted: dict[str, Any]) -> list[str]:
    """Read the ids. Raises BadRequest."""
    ids = wanted.get("ids")
    if not isinstance(ids, list) or not 1 <= len(ids) <= MOST_REVOKED:
        raise BadRequest(f"ids must be a list of 1 to {MOST_REVOKED} token ids", param="ids")
    if not all(isinstance(token_id, str) and token_id for token_id in ids):
        raise BadRequest("ids must hold texts only", param="ids")
    return [_checked(token_id) for token_id in ids]


def _about(token_id: str) -> dict[str, str]:
    """For the audit record: an id, never a bearer that stands in its place."""
    return {} if token_id.startswith("sk-") else {"token_id": token_id}


def _checked(token_id: str) -> str:
    if not token_id.strip():
        raise BadRequest("token ID is required", param="id")
    if token_id.startswith("sk-"):
        raise BadRequest("use the token's id, not its value", param="id")
    return token_id.replace("\x00", "\ufffd")
