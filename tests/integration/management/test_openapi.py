"""The description of the management API is true."""

import re
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.specs.openapi.schemas import OpenApiSchema
from support.databases import Stock

from llm_proxy.web.management.openapi import document

from .conftest import TOKEN, Manager, managing

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
AUTHORIZATION = {"Authorization": f"Bearer {TOKEN}"}
METHODS = {"get", "post", "put", "patch", "delete"}
OPERATIONS = [(method, path) for path, item in document()["paths"].items() for method in item if method in METHODS]
ENDING = [operation for operation in OPERATIONS if operation != ("get", "/manage/events/tail")]  # this one goes on


@pytest.fixture(scope="module")
def manage(stock: Stock, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    """One application on SQLite for all calls."""
    with stock.lend("sqlite", None) as database, managing(database, tmp_path_factory.mktemp("app"), {}) as manager:
        yield manager


@pytest.fixture(scope="module")
def schema(manage: Manager) -> OpenApiSchema:
    """The description as schemathesis reads it: once, for it looks through the program for values as well."""
    return schemathesis.openapi.from_wsgi("/manage/openapi.json", manage.app, headers=AUTHORIZATION)


def test_it_names_every_route_and_no_other(manage: Manager) -> None:
    """Paths and methods are those of the URL map; what is always refused is left out."""
    routed = set()
    for rule in manage.app.url_map.iter_rules():
        if rule.endpoint.startswith("management.") and not rule.endpoint.endswith(("_refused", ".elsewhere")):
            path = re.sub(r"<(?:path:)?\w+>", "{id}", rule.rule.replace("<provider>", "{provider}"))
            routed |= {(method.lower(), path) for method in rule.methods or ()} - {("head", path)}
    assert routed == set(OPERATIONS)


def test_it_is_served(manage: Manager) -> None:
    """As JSON, behind the management token."""
    response = manage.call("GET", "/openapi.json")
    assert response.get_json() == document()
    assert manage.call("GET", "/openapi.json", headers={"Authorization": ""}).status_code == 401


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["good", "bad"])
@pytest.mark.parametrize(("method", "path"), ENDING, ids=[f"{method} {path}" for method, path in ENDING])
def test_no_call_brings_what_is_not_described(
    manage: Manager, schema: OpenApiSchema, method: str, path: str, mode: GenerationMode
) -> None:
    """Whatever is sent, right or wrong: no 5xx, no status and no body beyond the description."""
    project = manage.project(f"kept-{uuid.uuid4()}")
    known = {"projects": project["id"], "tokens": manage.token(project["id"])["id"]}.get(path.split("/")[2])
    operation = schema[path][method.upper()]
    if mode is GenerationMode.NEGATIVE and not (operation.query or operation.headers or operation.body):
        return  # nothing can be wrong about it

    @given(operation.as_strategy(generation_mode=mode), st.booleans())
    @settings(
        max_examples=25,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def attack(case: schemathesis.Case[Any], is_known: bool) -> None:
        if is_known and known and case.path_parameters:
            case.path_parameters["id"] = known
        if isinstance(case.body, dict) and is_known and "project_id" in case.body:
            case.body["project_id"] = project["id"]
        case.validate_response(case.call(headers=AUTHORIZATION), checks=CHECKS)

    attack()
