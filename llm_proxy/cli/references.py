"""How people name what has an id: a project by its name, and everything by the first characters of its id."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from llm_proxy.cli.errors import CommandError
from llm_proxy.cli.management_client import ManagementClient

_LEAST_PREFIX = 4


def segment(identity: str) -> str:
    """Return an id as one segment of a path. Raises CommandError for what can't be one."""
    if not identity or not all(character.isalnum() or character in "-_" for character in identity):
        raise CommandError(f"{identity or 'an empty text'} is no id")
    return identity


def project_id(api: ManagementClient, written: str) -> str:
    """Return the id of a project that is given by id, by name, or by the beginning of its id.

    What is no project goes to the server as it is written, whose response says so.
    """
    if _is_whole(written):
        return written
    projects = api.call("GET", "/manage/projects")
    named = [project["id"] for project in projects if project["name"] == written]
    return named[0] if named else _by_prefix(written, [project["id"] for project in projects], "projects")


def token_id(api: ManagementClient, written: str) -> str:
    """Return the id of a token that is given by id, or by the beginning of its id."""
    if _is_whole(written) or len(written) < _LEAST_PREFIX:
        return segment(written)
    tokens = api.call("GET", "/manage/tokens", query={"search": segment(written)})
    return _by_prefix(written, [token["id"] for token in tokens], "tokens")


def audit_id(api: ManagementClient, written: str) -> str:
    """Return the id of an audit record; the beginning of an id is looked for among the newest hundred records."""
    if _is_whole(written) or len(written) < _LEAST_PREFIX:
        return segment(written)
    newest = api.call("GET", "/manage/audit", query={"limit": 100})["events"]
    return _by_prefix(segment(written), [event["id"] for event in newest], "records")


def names_of(api: ManagementClient) -> Mapping[str, str]:
    """Return the projects' names by their ids; none for a key whose role does not read projects."""
    try:
        projects = api.call("GET", "/manage/projects")
    except CommandError as refused:
        if refused.status != 403:
            raise
        return {}
    return {project["id"]: project["name"] for project in projects}


def _by_prefix(written: str, ids: Sequence[Any], what: str) -> str:
    found = [str(identity) for identity in ids if len(written) >= _LEAST_PREFIX and str(identity).startswith(written)]
    if len(found) > 1:
        raise CommandError(f"{written} is the beginning of {len(found)} {what}: give more of the id")
    return found[0] if found else written


def _is_whole(written: str) -> bool:
    try:
        UUID(written)
    except ValueError:
        return False
    return len(written) == 36
