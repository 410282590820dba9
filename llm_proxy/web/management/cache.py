"""/manage/cache/purge."""

from typing import Any, NamedTuple
from urllib.parse import urlsplit

from flask import Blueprint, Response

from llm_proxy.access.roles import Role
from llm_proxy.cache.scopes import Scope
from llm_proxy.errors import BadRequest
from llm_proxy.model.audit_actions import AuditAction
from llm_proxy.web.context import services
from llm_proxy.web.management import parsing, rendering
from llm_proxy.web.management.audited import current
from llm_proxy.web.management.routing import add

_TEXTS = ("method", "url", "prefix", "key", "project_id")


class _Wanted(NamedTuple):
    """A purge that was asked for, and what the audit record says of it."""

    scope: Scope
    kind: str
    about: dict[str, Any]


def routes(bp: Blueprint) -> None:
    """Add the route."""
    add(bp, "/cache/purge", "POST", purge)


def purge() -> Response:
    """200 with what was deleted; 400 says why not. Committed for every replica when it is sent."""
    with current().attempt(AuditAction.CACHE_PURGE, "proxy not available") as attempt:
        cache = services().cache_purge
        if cache is None:
            raise _refused("caching is disabled", "caching_disabled")
        wanted = _wanted()
        _require_reach(wanted.scope)
        number = cache.purge(wanted.scope)
        deleted: bool | int = number > 0 if wanted.kind == "exact" else number
        attempt.project_id = wanted.scope.project
        attempt.succeeded(purge_type=wanted.kind, **wanted.about, deleted=deleted)
        return rendering.json_response({"deleted": deleted})


def _require_reach(scope: Scope) -> None:
    """Raise ResourceNotFound for another's project, Forbidden for a purge of all projects by a limited caller."""
    caller = current().caller
    if scope.project is None:
        caller.require_all_projects(Role.OPERATOR)
    else:
        caller.require_project(scope.project)


def _wanted() -> _Wanted:
    try:
        body: dict[str, Any] = parsing.json_object()
    except BadRequest as error:
        raise _refused("invalid JSON", "invalid_json") from error
    texts = {name: "" if body.get(name) is None else body[name] for name in _TEXTS}
    is_all = False if body.get("all") is None else body["all"]
    if not all(isinstance(value, str) for value in texts.values()) or not isinstance(is_all, bool):
        raise _refused("invalid JSON", "invalid_json")
    method, url, prefix, key, project = (texts[name] for name in _TEXTS)
    named = [bool(key), bool(prefix), is_all]
    if sum(named) > 1 or ((key or is_all) and (method or url or project)):
        raise _refused("only one of key, prefix, project_id and all, or method and url, can be given", "several_scopes")
    about = {name: value for name, value in (*texts.items(), ("all", is_all)) if value}
    return _of(method, url, prefix, key, project or None, about, is_all=is_all)


def _of(
    method: str, url: str, prefix: str, key: str, project: str | None, about: dict[str, Any], *, is_all: bool
) -> _Wanted:
    if is_all:
        return _Wanted(Scope(is_all=True), "all", about)
    if key:
        return _Wanted(Scope(key=key), "key", about)
    if prefix:
        return _Wanted(Scope(prefix=prefix, project=project), "prefix", about)
    if project and not method and not url:
        return _Wanted(Scope(project=project), "project", about)
    if not (method and url):
        raise _refused("method and url are required", "missing_fields")
    if not _is_address(url):
        raise _refused("invalid URL", "invalid_url")
    return _Wanted(Scope.of_address(method, url, project), "exact", about)


def _is_address(url: str) -> bool:
    try:
        return urlsplit(url).path.startswith("/") and url.isprintable() and " " not in url
    except ValueError:
        return False


def _refused(message: str, reason: str) -> BadRequest:
    return BadRequest(message, audit={"reason": reason})
