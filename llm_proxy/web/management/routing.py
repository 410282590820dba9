"""Routes of /manage, each behind its row of the table of roles; beside them 405 with the real methods, and 404."""

import re
from collections.abc import Callable
from functools import wraps
from typing import Any

from flask import Blueprint, Response, current_app, request
from flask.blueprints import BlueprintSetupState
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException
from werkzeug.routing import PathConverter, Rule

from llm_proxy.access.caller import Caller
from llm_proxy.access.roles import Operation, Reach, operation
from llm_proxy.errors import BadRequest, Forbidden, ManagementError, ResourceNotFound, WrongMethod
from llm_proxy.model.audit_actions import AuditAction
from llm_proxy.web import context
from llm_proxy.web.management import parsing
from llm_proxy.web.management.audited import current

View = Callable[..., ResponseReturnValue]
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_ELSEWHERE = "elsewhere"
_REFUSED = "_refused"
_WITHOUT_ID = {
    "projects//+tokens/revoke": "invalid path",
    "projects//+": "invalid project id",
    "tokens//+": "token ID is required",
    "audit//+": "audit event ID is required",
}


class _Anything(PathConverter):
    """The rest of a path, slashes at its beginning included."""

    regex = ".*?"
    part_isolating = False


def add(bp: Blueprint, rule: str, method: str, view: View, *, is_refusal: bool = False) -> None:
    """Add one method of one resource; a slash at the end counts for nothing.

    Args:
        is_refusal: It is never allowed, so it has no row in the table of roles.

    Raises:
        LookupError: The table of roles has no row for it.
    """
    words = re.sub(r"<(?:path:)?|>", "", rule).strip("/").replace("/", "_").replace(".", "_")
    name = f"{words}_{method.lower()}{_REFUSED if is_refusal else ''}"
    if not is_refusal:
        view = _guarded(operation(method, template(bp, rule)), view)
    bp.add_url_rule(
        rule, name, view, methods=[method], strict_slashes=False, provide_automatic_options=False, merge_slashes=False
    )


def add_items(bp: Blueprint, name: str, item: str, *, index: View, create: View, show: View, change: View) -> None:
    """Add what every kind of things has: the list, the creation, one thing and its change.

    Args:
        name: Of the kind, such as `keys`.
        item: The parameter of the path that holds the id, such as `key_id`; with the converter it needs.
    """
    many, one = f"/{name}", f"/{name}/<{item}>"
    for rule, method, view in (
        (many, "GET", index),
        (many, "POST", create),
        (one, "GET", show),
        (one, "PATCH", change),
    ):
        add(bp, rule, method, view)


def only(bp: Blueprint, rule: str, *allowed: str) -> None:
    """Refuse a path's other methods with 405: a rule with an id matches the same path, and would take them."""

    def refuse(**path: str) -> Response:
        raise WrongMethod(allowed)

    for method in _METHODS:
        if method not in allowed:
            add(bp, rule, method, refuse, is_refusal=True)


def template(bp: Blueprint, rule: str) -> str:
    """Return a rule's path as the table of roles and the OpenAPI document write it."""
    return f"{bp.url_prefix}{re.sub(r'<[^>]*>', '{id}', rule.replace('<provider>', '{provider}'))}"


def _guarded(wanted: Operation, view: View) -> View:
    @wraps(view)
    def guarded(**path: str) -> ResponseReturnValue:
        caller = current().caller
        try:
            caller.require(wanted)
        except Forbidden as refused:
            with current().attempt(AuditAction.ADMIN_ACCESS, "failed to check the role"):
                if wanted.reach in (Reach.PROJECT, Reach.NAMED):
                    _require_visible(caller, path)
                raise refused
        return view(**path)

    return guarded


def _require_visible(caller: Caller, path: dict[str, str]) -> None:
    """Raise ResourceNotFound where what is named does not exist for the caller: that comes before its role."""
    services = context.services()
    if "token_id" in path:
        services.tokens.get(path["token_id"], caller.projects)
        return
    project_id = path.get("project_id") or named_project()
    if project_id is not None:
        caller.require_project(project_id)
        services.projects.get(project_id)


def named_project() -> str | None:
    """Return the project that the body names; None where it names none, or is no body that can be read."""
    try:
        found: Any = parsing.json_object().get("project_id")
    except ManagementError:
        return None
    return found if isinstance(found, str) and found else None


def catch_all(bp: Blueprint) -> None:
    """Everything else below the prefix, whatever its method: behind the same gate, then 405 or 404."""

    def setup(state: BlueprintSetupState) -> None:
        endpoint = f"{bp.name}.{_ELSEWHERE}"
        state.app.view_functions[endpoint] = _elsewhere
        state.app.url_map.converters["anything"] = _Anything
        for rule in (f"{state.url_prefix}", f"{state.url_prefix}/<anything:rest>"):
            # Flask gives each route a list of methods; werkzeug's own rule, without one, takes any method there is.
            state.app.url_map.add(Rule(rule, endpoint=endpoint, strict_slashes=False, merge_slashes=False))

    bp.record(setup)


def _elsewhere(rest: str = "") -> Response:
    allowed = _allowed(request.path)
    if allowed:
        raise WrongMethod(allowed)
    for form, message in _WITHOUT_ID.items():
        if re.fullmatch(form, rest):
            raise BadRequest(message)
    raise ResourceNotFound


def _allowed(path: str) -> list[str]:
    """Methods that have their own view at this path."""
    adapter = current_app.url_map.bind("")
    allowed = []
    for method in _METHODS:
        try:
            endpoint, _ = adapter.match(path, method=method)
        except HTTPException:
            continue
        if not endpoint.endswith((f".{_ELSEWHERE}", _REFUSED)):
            allowed.append(method)
    return allowed
