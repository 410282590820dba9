"""/manage/openapi.json: openapi.yaml, as JSON."""

from functools import cache
from importlib import resources
from typing import Any

import orjson
import yaml
from flask import Blueprint, Response

from llm_proxy.web.management import rendering
from llm_proxy.web.management.routing import add


@cache
def document() -> dict[str, Any]:
    """Return the description as a structure."""
    text = resources.files(__package__).joinpath("openapi.yaml").read_text("utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


@cache
def _written() -> bytes:
    return orjson.dumps(document(), option=orjson.OPT_APPEND_NEWLINE)


def routes(bp: Blueprint) -> None:
    """Add the route."""
    add(bp, "/openapi.json", "GET", show)


def show() -> Response:
    """200 with the OpenAPI 3.1 document."""
    return rendering.raw(_written())
