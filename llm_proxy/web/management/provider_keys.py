"""/manage/projects/{id}/provider-keys."""

from urllib.parse import quote

from flask import Blueprint, Response

from llm_proxy.model.audit_actions import AuditAction
from llm_proxy.projects.provider_keys import ProviderKey
from llm_proxy.web.context import services
from llm_proxy.web.management import parsing, rendering
from llm_proxy.web.management.audited import AuditedAction, current
from llm_proxy.web.management.projects import checked
from llm_proxy.web.management.routing import add, only

_ALL, _ONE = "/projects/<project_id>/provider-keys", "/projects/<project_id>/provider-keys/<provider>"


def routes(bp: Blueprint) -> None:
    """Add the routes."""
    add(bp, _ALL, "GET", index)
    add(bp, _ONE, "PUT", put)
    add(bp, _ONE, "DELETE", remove)
    only(bp, _ALL, "GET")
    only(bp, _ONE, "DELETE", "PUT")


def index(project_id: str) -> Response:
    """200 with an array of obfuscated keys; 404."""
    with current().attempt(AuditAction.PROVIDER_KEY_LIST, "failed to list keys", project_id=project_id) as attempt:
        found = services().provider_keys.list(checked(project_id))
        attempt.succeeded(key_count=len(found))
    served = ",".join(quote(name, safe="") for name in services().provider_keys.providers)
    return rendering.json_response([_json(key) for key in found], headers={"X-Providers": served})


def put(project_id: str, provider: str) -> Response:
    """200 with the key, obfuscated; 400 names the field; 404 unknown project."""
    with _attempt(AuditAction.PROVIDER_KEY_UPDATE, "failed to store key", project_id, provider) as attempt:
        wanted = _checked_body(project_id)
        with attempt.transaction() as tx:
            key = services().provider_keys.put(tx, checked(project_id), provider, wanted)
    return rendering.json_response(_json(key))


def remove(project_id: str, provider: str) -> Response:
    """204; 400 the only provider's; 404 there is none."""
    with _attempt(AuditAction.PROVIDER_KEY_DELETE, "failed to delete key", project_id, provider) as attempt:
        checked(project_id)
        with attempt.transaction() as tx:
            services().provider_keys.remove(tx, project_id, provider)
    return Response(status=204)


def _attempt(action: AuditAction, fault: str, project_id: str, provider: str) -> AuditedAction:
    return current().attempt(action, fault, project_id=project_id, details={"provider": provider})


def _checked_body(project_id: str) -> dict[str, object]:
    """Return the body; the path is judged first."""
    checked(project_id)
    return parsing.json_object()


def _json(key: ProviderKey) -> dict[str, object]:
    return {
        "provider": key.provider,
        "api_key": key.api_key,
        "created_at": rendering.time_of(key.created_at),
        "updated_at": rendering.time_of(key.updated_at),
    }
