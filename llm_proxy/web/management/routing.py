"""Routes of /manage, and what happens beside them: 405 with the real methods, 404, always as JSON."""

import re
from collections.abc import Callable

from flask import Blueprint, Response, current_app, request
from flask.blueprints import BlueprintSetupState
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException
from werkzeug.routing import PathConverter, Rule

from llm_proxy.errors import BadRequest, ResourceNotFound, WrongMethod
from llm_proxy.web.management.services import ManagementServices

Services = Callable[[], ManagementServices]
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


def add(
    bp: Blueprint, rule: str, method: str, view: Callable[..., ResponseReturnValue], *, is_refusal: bool = False
) -> None:
    """One method of one resource; a slash at the end counts for nothing. `is_refusal`: it is never allowed."""
    words = re.sub(r"<(?:path:)?|>", "", rule).strip("/").replace("/", "_").replace(".", "_")
    name = f"{words}_{method.lower()}{_REFUSED if is_refusal else ''}"
    bp.add_url_rule(
        rule, name, view, methods=[method], strict_slashes=False, provide_automatic_options=False, merge_slashes=False
    )


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
    """Methods that have a view of their own at this path."""
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
