"""The tables of fields agree with the database, with what requests read, and with openapi.yaml."""

from dataclasses import fields as attributes_of
from typing import Any

import pytest

from llm_proxy.db.models import ProjectRow, TokenRow
from llm_proxy.errors import BadRequest
from llm_proxy.model.fields import (
    Choice,
    Field,
    Fields,
    FlatObject,
    Kind,
    Money,
    ProviderNames,
    Quota,
    Text,
    Whole,
    changes,
)
from llm_proxy.model.project import PROJECT_FIELDS, ProjectSnapshot
from llm_proxy.model.token import TokenSnapshot
from llm_proxy.model.token_fields import TOKEN_FIELDS
from llm_proxy.projects.project import Project
from llm_proxy.tokens.token import Token
from llm_proxy.web.management.openapi import document

SCHEMAS = document()["components"]["schemas"]
RESOURCES = [("Token", TOKEN_FIELDS), ("Project", PROJECT_FIELDS)]


def _resolved(schema: Any) -> Any:
    """Return a schema with its references followed, without descriptions."""
    if isinstance(schema, list):
        return [_resolved(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _resolved(SCHEMAS[schema["$ref"].rsplit("/", 1)[1]])
    return {name: _resolved(value) for name, value in schema.items() if name != "description"}


@pytest.mark.parametrize(("resource", "fields"), RESOURCES, ids=["token", "project"])
def test_openapi_describes_the_table(resource: str, fields: Fields) -> None:
    """Creation and PATCH take each field within the table's bounds; the resource shows it."""
    for field in fields:
        for name in (f"New{resource}", f"{resource}Patch"):
            assert _resolved(SCHEMAS[name]["properties"][field.name]) == field.kind.schema(), (name, field.name)
        assert field.name in SCHEMAS[resource]["properties"]


@pytest.mark.parametrize(
    ("fields", "row", "record", "snapshot"),
    [(TOKEN_FIELDS, TokenRow, Token, TokenSnapshot), (PROJECT_FIELDS, ProjectRow, Project, ProjectSnapshot)],
    ids=["token", "project"],
)
def test_records_hold_the_table(fields: Fields, row: Any, record: Any, snapshot: Any) -> None:
    """Each field is a column and an attribute for management; requests hold those that they obey, and no other."""
    enforced = {field.attribute for field in fields if field.is_enforced}
    names = {field.attribute for field in fields}
    assert names <= set(row.__table__.columns.keys())
    assert names <= {attribute.name for attribute in attributes_of(record)}
    assert {attribute.name for attribute in attributes_of(snapshot)} & names == enforced


@pytest.mark.parametrize(
    ("kind", "given", "stored", "shown"),
    [
        (Whole(5), 5, 5, 5),
        (Quota(5), 0, None, None),
        (Money(), "2.50", 2_500_000_000, 2.5),
        (Text(3), " abc ", "abc", "abc"),
        (Choice(("full", "off")), None, "full", "full"),
        (FlatObject(), {"a": 1}, '{"a": 1}', {"a": 1}),
        (ProviderNames(), ["b", "a", "b"], '["b", "a"]', ("b", "a")),
        (ProviderNames(), None, None, None),
    ],
)
def test_a_value_goes_both_ways(kind: Kind, given: Any, stored: Any, shown: Any) -> None:
    """What is parsed, stored and loaded is shown as it counts."""
    value = kind.parse({"x": given}, "x", ("a", "b"))
    assert kind.stored(value) == stored
    assert kind.shown(kind.loaded(stored)) == shown


@pytest.mark.parametrize(
    ("kind", "given"),
    [(Whole(5), 6), (Whole(5), True), (Quota(5), -1), (Quota(5), 6), (Quota(5), 2**63), (Money(), 0), (Text(3), "abcd"),
     (Text(3), "a\nb"), (Choice(("full",)), "other"), (FlatObject(), {"a": {}}), (ProviderNames(), []),
     (ProviderNames(), ["c"])],
)  # fmt: skip
def test_a_wrong_value_is_refused_by_name(kind: Kind, given: Any) -> None:
    """The error names the member."""
    with pytest.raises(BadRequest) as caught:
        kind.parse({"x": given}, "x", ("a", "b"))
    assert caught.value.param == "x"


def test_an_audit_record_tells_numbers_and_hides_texts() -> None:
    """Texts may be personal: the record says only that they changed."""
    fields = (Field("a", Quota(), ""), Field("b", Text(9), ""), Field("c", Money(), "", column="c_nano"))
    assert changes(fields, {"a": None, "b": "secret", "c_nano": 1_000_000_000}) == {
        "updated_a": "unlimited",
        "updated_b": True,
        "updated_c": 1,
    }
