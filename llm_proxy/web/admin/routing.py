"""Routes of the admin UI as tables, each page of a form behind the operation that the form is for."""

from collections.abc import Callable
from functools import wraps
from typing import NamedTuple

from flask import Blueprint
from werkzeug.wrappers import Response

from llm_proxy.web.admin import frame

View = Callable[..., Response]


class Route(NamedTuple):
    """A route of the blueprint.

    Attributes:
        methods: Separated by blanks.
        endpoint: Of the blueprint, such as `tokens_new`.
        needs: Method and path of the management API, such as `POST /manage/tokens`, without whose right the page is
            refused; empty for pages and forms that the API refuses itself.
    """

    methods: str
    rule: str
    endpoint: str
    view: View
    needs: str = ""


def add(bp: Blueprint, *routes: Route) -> None:
    """Add routes to the blueprint."""
    for methods, rule, endpoint, view, needs in routes:
        bp.add_url_rule(rule, endpoint, _needing(needs, view) if needs else view, methods=methods.split())


def add_form(bp: Blueprint, rule: str, endpoint: str, page: View, submit: View, needs: str = "") -> None:
    """Add a page with a form, and `<endpoint>_submit`, which takes the form at the same address."""
    add(bp, Route("GET", rule, endpoint, page, needs), Route("POST", rule, f"{endpoint}_submit", submit))


def add_items(
    bp: Blueprint, name: str, item: str, *, new: View, create: View, show: View, edit: View, update: View
) -> None:
    """Add the pages of a kind of things that are created and edited.

    Args:
        name: Of the kind, such as `keys`, in addresses here and of the management API.
        item: The parameter that holds the id, such as `key_id`.
    """
    one = f"/{name}/<{item}>"
    add(
        bp,
        Route("GET", f"/{name}/new", f"{name}_new", new, f"POST /manage/{name}"),
        Route("POST", f"/{name}", f"{name}_create", create),
        Route("GET", one, f"{name}_show", show),
        Route("GET", f"{one}/edit", f"{name}_edit", edit, f"PATCH /manage/{name}/{{id}}"),
        Route("POST PUT DELETE", one, f"{name}_update", update),
    )


def _needing(needs: str, view: View) -> View:
    method, _, path = needs.partition(" ")

    @wraps(view)
    def guarded(**values: str) -> Response:
        frame.require(method, path)
        return view(**values)

    return guarded
