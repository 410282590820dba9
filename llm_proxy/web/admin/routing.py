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


def _needing(needs: str, view: View) -> View:
    method, _, path = needs.partition(" ")

    @wraps(view)
    def guarded(**values: str) -> Response:
        frame.require(method, path)
        return view(**values)

    return guarded
