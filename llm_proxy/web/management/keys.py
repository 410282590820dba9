"""/manage/keys and /manage/whoami."""

from flask import Blueprint, Response

from llm_proxy.access.key import KeyPatch, NewKey
from llm_proxy.access.secret import PREFIX
from llm_proxy.access.service import BY_NAME, SORTS, IssuedKey, KeyFilter, order_of
from llm_proxy.db.idempotency import CreationResponse
from llm_proxy.errors import BadRequest
from llm_proxy.model.audit_actions import AuditAction
from llm_proxy.web.context import services
from llm_proxy.web.management import pagination, parsing, rendering
from llm_proxy.web.management.audited import current
from llm_proxy.web.management.idempotency import idempotent
from llm_proxy.web.management.overlap import overlap
from llm_proxy.web.management.routing import add, add_items


def routes(bp: Blueprint) -> None:
    """Add the routes."""
    add_items(bp, "keys", "key_id", index=index, create=create, show=show, change=change)
    add(bp, "/keys/<key_id>", "DELETE", revoke)
    add(bp, "/keys/<key_id>/roll", "POST", roll)
    add(bp, "/whoami", "GET", whoami)


def index() -> Response:
    """Return 200 with an array; 400 names the parameter."""
    with current().attempt(AuditAction.KEY_LIST, "failed to list management keys") as attempt:
        asked = pagination.page_request(SORTS, order_of, BY_NAME)
        wanted = KeyFilter(current().caller, parsing.search())
        response, count = pagination.listed(services().keys, wanted, asked, rendering.key_json)
        attempt.succeeded(key_count=count)
    return response


def create() -> Response:
    """Return 201 with the key, shown this once; 400 names the field; 403 stronger than the caller; 409 name."""
    with current().attempt(AuditAction.KEY_CREATE, "failed to store management key") as attempt:
        caller = current().caller
        new = NewKey.from_json(parsing.json_object(), services().keys.now())
        services().keys.granted(new, caller)  # before a response is repeated: the caller may hold less than it did
        with idempotent(services().idempotency, attempt) as creation:
            if creation.is_due:
                with attempt.transaction() as tx:
                    creation.keep(tx, _issued(services().keys.create(tx, new, caller), 201))
    return creation.response()


def show(key_id: str) -> Response:
    """Return 200 with the key; 404."""
    with current().attempt(AuditAction.KEY_READ, "failed to get management key", details=_about(key_id)) as attempt:
        key = services().keys.get(_checked(key_id), current().caller)
        attempt.succeeded()
    return rendering.key_response(key)


def change(key_id: str) -> Response:
    """Return 200 with the key; 400 names the field; 403; 404; 409 the name is taken; 412."""
    with current().attempt(
        AuditAction.KEY_UPDATE, "failed to update management key", details=_about(key_id)
    ) as attempt:
        _checked(key_id)
        patch = KeyPatch.from_json(parsing.json_object(), services().keys.now())
        with attempt.transaction(rendering.key_tag) as tx:
            key = services().keys.update(tx, key_id, patch, current().caller)
    return rendering.key_response(key)


def roll(key_id: str) -> Response:
    """Return 200 with a new secret, shown this once; the old one lives on for `overlap_minutes`."""
    with current().attempt(AuditAction.KEY_ROLL, "failed to roll management key", details=_about(key_id)) as attempt:
        caller = current().caller
        services().keys.get(_checked(key_id), caller)
        span = overlap()
        with idempotent(services().idempotency, attempt) as creation:
            if creation.is_due:
                with attempt.transaction(rendering.key_tag) as tx:
                    creation.keep(tx, _issued(services().keys.roll(tx, key_id, span, caller), 200))
    return creation.response()


def revoke(key_id: str) -> Response:
    """Return 204; 404; 412."""
    with current().attempt(
        AuditAction.KEY_REVOKE, "failed to revoke management key", details=_about(key_id)
    ) as attempt:
        _checked(key_id)
        with attempt.transaction(rendering.key_tag) as tx:
            services().keys.revoke(tx, key_id, current().caller)
    return rendering.no_content()


def whoami() -> Response:
    """Return 200 with the caller's name, role, projects and end."""
    caller = current().caller
    headers = {} if caller.key_id is None else {"X-Management-Key-Id": caller.key_id}
    return rendering.json_response(rendering.caller_json(caller), headers=headers)


def _issued(issued: IssuedKey, status: int) -> CreationResponse:
    headers = {"ETag": rendering.key_tag(issued.key)}
    if status == 201:
        headers["Location"] = f"/manage/keys/{issued.key.id}"
    return CreationResponse(status, headers, {**rendering.key_json(issued.key), "key": issued.secret}, secret="key")  # noqa: S106  (a member's name)


def _about(key_id: str) -> dict[str, str]:
    """For the audit record: an id, never a secret that stands in its place."""
    return {} if key_id.startswith(PREFIX) else {"key_id": key_id}


def _checked(key_id: str) -> str:
    if not key_id.strip():
        raise BadRequest("key ID is required", param="id")
    if key_id.startswith(PREFIX):
        raise BadRequest("use the key's id, not its value", param="id")
    return key_id.replace("\x00", "\ufffd")
