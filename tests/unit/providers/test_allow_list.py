"""Method, path, required fields and origin."""

import math

import pytest

from llm_proxy.errors import (
    EndpointNotFound,
    LlmProxyError,
    MethodNotAllowed,
    OriginNotAllowed,
    OriginRequired,
    RequiredHeaderMissing,
)
from llm_proxy.providers import AllowList, Provider, ProviderTimeouts


def allow_list(**changes: object) -> AllowList:
    """Rules of a provider with two methods and three endpoints."""
    timeouts = ProviderTimeouts(10.0, 600.0, 300.0, math.inf, 90.0, 0.01)
    known: dict[str, object] = {
        "name": "openai",
        "base_url": "http://x",
        "origin": "http://x:80",
        "host": "x",
        "base_path": "",
        "allowed_methods": ("POST", "GET"),
        "allowed_endpoints": ("/v1/models", "/v1/chat/completions", "/v1/files/"),
        "timeouts": timeouts,
        "param_whitelist": {},
    }
    return AllowList(Provider(**(known | changes)))  # type: ignore[arg-type]


def test_methods_are_compared_without_case() -> None:
    """`get` passes where GET is listed."""
    allow_list().check_method("get")


def test_a_refused_method_is_answered_with_those_allowed() -> None:
    """405 carries Allow."""
    with pytest.raises(MethodNotAllowed) as caught:
        allow_list().check_method("DELETE")
    assert caught.value.fields == (("Allow", "GET, POST"),)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models",
        "/v1/models/",
        "/v1/models/gpt-4o",
        "/v1/models/ft:gpt-4o:org::id",
        "/v1/models/a%20b",
        "/v1/mod%65ls/x",
        "/v1/models/%C3%A9",
        "/v1/models/a.b",
        "/v1/models/a;v=1",
        "/v1/models/100%25",
        "/v1/models/.hidden",
        "/v1/models/a%2eb",
        "/v1/chat/completions",
        "/v1/files/",
        "/v1/files/file-1/content",
        "/v1/models/mistralai%2Fmistral-7b",
        "/v1/models/a%2fb%2Fc/d",
    ],
)
def test_an_endpoint_allows_itself_and_all_below(path: str) -> None:
    """Whole segments of the decoded path count."""
    allow_list().check_endpoint(path)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/modelsX",
        "/v1/models/..;/organization",
        "/v1/models/..;x=1/organization",
        "/v1/models/..%3b/organization",
        "/v1/models/.;/x",
        "/v1/models/;/../organization",
        "/v1/models/%252e%252e%252forganization",
        "/v1/models/x%25252fy",
        "/v1/models/%25%32%65%25%32%65/organization",
        "/v1/models/x%2%35%32%66y",
        "/v1/models/..%20/organization",
        "/v1/models/%09..%0b/organization",
        "/v1/models/%ef%bc%8e%ef%bc%8e/organization",
        "/v1/models/..%ef%bc%9bx/organization",
        "/v1/models/%e2%80%a5/organization",
        "/v1/models/a%ef%bc%bcb",
        "/v1/models/%255c",
        "/v1/model",
        "/v1/files",
        "/v1",
        "/",
        "",
        "*",
        "/V1/models",
        "v1/models",
        "/v1/models/../organization",
        "/v1/models/./x",
        "/v1/models/..",
        "/v1/models/%2e%2e/organization",
        "/v1/models/.%2E/x",
        "/v1/models//x",
        "//v1/models",
        "/v1/models%2Fx",
        "/v1%2Fmodels/x",
        "/v1/chat%2Fcompletions",
        "/v1/models/%2Fx",
        "/v1/models/a%2F%2Fb",
        "/v1/models/a%2F/b",
        "/v1/models/..%2Forganization",
        "/v1/models/a%2F..%2F..%2Forganization",
        "/v1/models/a%2F.",
        "/v1/models/a\\b",
        "/v1/models/a%5Cb",
        "/v1/models/a%00",
        "/v1/models/%ff",
        "/v1/models/\xff",
        "/v1/models/%zz",
        "/v1/models/%",
        "/v1/models/a b",
    ],
)
def test_other_and_ambiguous_paths_are_not_found(path: str) -> None:
    """What is not listed, and what a provider might read as another path, is 404."""
    with pytest.raises(EndpointNotFound):
        allow_list().check_endpoint(path)


def test_a_slash_allows_everything() -> None:
    """`/` is an endpoint that ends in a slash."""
    allow_list(allowed_endpoints=("/",)).check_endpoint("/anything/at/all")


ORIGIN = ("ORIGIN", "https://a.example")


@pytest.mark.parametrize(
    ("rules", "fields", "error"),
    [
        ({}, [("ORIGIN", "https://evil.example")], None),
        ({"allowed_origins": ("https://a.example",)}, [], None),
        ({"allowed_origins": ("https://a.example",)}, [ORIGIN], None),
        ({"allowed_origins": ("https://a.example",)}, [("ORIGIN", "https://A.example")], OriginNotAllowed),
        ({"allowed_origins": ("https://a.example",)}, [ORIGIN, ("ORIGIN", "https://b.example")], OriginNotAllowed),
        ({"required_headers": ("origin",)}, [], OriginRequired),
        ({"required_headers": ("Origin",)}, [("ORIGIN", " ")], OriginRequired),
        ({"required_headers": ("origin",)}, [ORIGIN], None),
        ({"required_headers": ("X-Team",)}, [ORIGIN], RequiredHeaderMissing),
        ({"required_headers": ("X-Team",)}, [("X-TEAM", "")], RequiredHeaderMissing),
        ({"required_headers": ("x-team",)}, [("X-TEAM", "red")], None),
        ({"required_headers": ("origin", "X-Team")}, [], RequiredHeaderMissing),
        ({"required_headers": ("origin",), "allowed_origins": ("https://b.example",)}, [ORIGIN], OriginNotAllowed),
    ],
)
def test_required_fields_come_before_the_origin(
    rules: dict[str, object], fields: list[tuple[str, str]], error: type[LlmProxyError] | None
) -> None:
    """400 for what is missing, 403 for an origin outside the list, exactly compared."""
    if error is None:
        allow_list(**rules).check_fields(fields)
        return
    with pytest.raises(error):
        allow_list(**rules).check_fields(fields)


def test_a_missing_field_is_named_as_the_file_spells_it() -> None:
    """The message is the contract's."""
    with pytest.raises(RequiredHeaderMissing, match=r"^Required header missing: X-Team$"):
        allow_list(required_headers=("X-Team",)).check_fields([])


@pytest.mark.parametrize("name", ["X-HTTP-METHOD-OVERRIDE", "X-METHOD-OVERRIDE", "X-HTTP-METHOD"])
def test_another_method_in_a_field_must_be_allowed_as_well(name: str) -> None:
    """Some providers take it for the request's own."""
    allow_list().check_overrides([("HOST", "x"), (name, " get ")])
    with pytest.raises(MethodNotAllowed):
        allow_list().check_overrides([(name, "GET"), (name, "DELETE")])


@pytest.mark.parametrize(
    ("method", "path", "is_unseen"),
    [
        ("POST", "/v1/batches", True),
        ("POST", "/v1/Thre%61ds/t/runs", True),
        ("GET", "/v1/batches", False),
        ("POST", "/v1/chat/completions", False),
    ],
)
def test_jobs_that_run_later_are_known(method: str, path: str, is_unseen: bool) -> None:
    """No budget sees what they use."""
    assert AllowList.is_unseen(method, path) is is_unseen
