"""How results look on the wire: JSON with a newline, times in UTC, tags over what can be changed."""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import orjson
from flask import Response

from llm_proxy.access.caller import Caller
from llm_proxy.access.key import Key
from llm_proxy.model.fields import to_json, values_of
from llm_proxy.model.project import PROJECT_FIELDS
from llm_proxy.model.token_fields import TOKEN_FIELDS
from llm_proxy.money import usd
from llm_proxy.projects.project import Project
from llm_proxy.runtime.clock import rfc3339
from llm_proxy.tokens.service import Issued
from llm_proxy.tokens.token import Token


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON response."""
    return raw(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE), status, headers)


def raw(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response whose JSON is already written."""
    return Response(body, status=status, headers=dict(headers or {}), content_type="application/json")


def no_content() -> Response:
    """Return 204."""
    return Response(status=204, content_type="application/json")


def key_response(key: Key) -> Response:
    """Return 200 with a management key and its tag."""
    return json_response(key_json(key), headers={"ETag": key_tag(key)})


def project_response(project: Project) -> Response:
    """Return 200 with a project and its tag."""
    return json_response(project_json(project), headers={"ETag": project_tag(project)})


def token_response(token: Token) -> Response:
    """Return 200 with a token and its tag."""
    return json_response(token_json(token), headers={"ETag": token_tag(token)})


def time_of(instant: datetime | None) -> str | None:
    """RFC 3339, null for none."""
    return None if instant is None else rfc3339(instant)


def project_json(project: Project) -> dict[str, Any]:
    """Return a project; what is shown of its key is obfuscated."""
    shown: dict[str, Any] = {
        "id": project.id,
        "name": project.name,
        "api_key": project.api_key,
        "is_active": project.is_active,
        **to_json(PROJECT_FIELDS, project),
    }
    if project.deactivated_at is not None:
        shown["deactivated_at"] = time_of(project.deactivated_at)
    return {
        **shown,
        "created_at": time_of(project.created_at),
        "created_by": project.created_by,
        "updated_at": time_of(project.updated_at),
    }


def token_json(token: Token) -> dict[str, Any]:
    """Return a token without its bearer."""
    return {
        "id": token.id,
        "token": token.hint,
        "project_id": token.project_id,
        **to_json(TOKEN_FIELDS, token),
        "expires_at": time_of(token.expires_at),
        "is_active": token.is_active,
        "deactivated_at": time_of(token.deactivated_at),
        "status": token.state,
        "request_count": token.request_count,
        "total_tokens": token.total_tokens,
        "total_cost_usd": usd(token.total_cost_nano_usd),
        "created_at": time_of(token.created_at),
        "created_by": token.created_by,
        "last_used_at": time_of(token.last_used_at),
        "cache_hit_count": token.cache_hit_count,
    }


def key_json(key: Key) -> dict[str, Any]:
    """Return a management key without its secret."""
    return {
        "id": key.id,
        "name": key.name,
        "role": key.role.value,
        "projects": None if key.projects is None else sorted(key.projects),
        "expires_at": time_of(key.expires_at),
        "created_at": time_of(key.created_at),
        "created_by": key.created_by,
        "last_used_at": time_of(key.last_used_at),
    }


def key_tag(key: Key) -> str:
    """Return the `ETag` over what PATCH and a roll can change."""
    projects = None if key.projects is None else sorted(key.projects)
    return _tag(key.name, key.role.value, projects, time_of(key.expires_at), key.secret_hash)


def caller_json(caller: Caller) -> dict[str, Any]:
    """Return what a caller may do."""
    return {
        "actor": caller.actor,
        "role": caller.role.value,
        "projects": None if caller.projects is None else sorted(caller.projects),
        "expires_at": time_of(caller.expires_at),
    }


def issued_json(issued: Issued) -> dict[str, Any]:
    """Return the one response with the bearer in it."""
    token = issued.token
    members: dict[str, Any] = {"id": token.id, "token": issued.bearer, "expires_at": time_of(token.expires_at)}
    if token.max_requests is not None:
        members["max_requests"] = token.max_requests
    members |= {
        "project_id": token.project_id,
        "is_active": token.is_active,
        "request_count": token.request_count,
        "created_at": time_of(token.created_at),
    }
    return members


def project_tag(project: Project) -> str:
    """`ETag` over what PATCH can change."""
    return _tag(project.name, project.stored_key, project.is_active, values_of(PROJECT_FIELDS, project))


def token_tag(token: Token) -> str:
    """`ETag` over what PATCH can change; counters have no part in it."""
    return _tag(token.is_active, token.fields)


def _tag(*parts: Any) -> str:
    return '"' + hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32] + '"'
