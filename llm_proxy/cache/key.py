"""Keys: the project first, at every tier, so that no request can name another project's responses.

A key is `v1:<project>:<request part>:<vary part>`, both parts SHA-256 over a JSON list, which no value can leave.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote_plus

import orjson

from llm_proxy.cache.entry import FORMAT

Fields = Sequence[tuple[str, str]]

DEFAULT_VARY: Final = ("ACCEPT", "ACCEPT-ENCODING", "ACCEPT-LANGUAGE")  # of responses that name none
CHOSEN: Final = ("OPENAI-", "ANTHROPIC-")  # fields that choose account, version or behaviour, whatever Vary says
_REMEMBERED_CHARS: Final = 512
_BODY_FIELDS: Final = ("CONTENT-TYPE", "CONTENT-ENCODING")  # the same bytes may mean something else
_CASELESS: Final = frozenset(("ACCEPT", "ACCEPT-ENCODING", "ACCEPT-LANGUAGE"))


def canonical_query(query: str) -> str:
    """Return the query with its parameters sorted by name; those of one name keep their order.

    Names count as decoded, and `a[1]` as `a`: such servers must see their order unchanged. A query with `;`
    is left alone, because some servers take it for a separator.
    """
    if "&" not in query or ";" in query:
        return query
    return "&".join(sorted(query.split("&"), key=_parameter_name))


def _parameter_name(parameter: str) -> str:
    return unquote_plus(parameter.partition("=")[0], "latin-1").partition("[")[0].partition(".")[0]


def canonical_target(method: str, path: str, query: str) -> str:
    """Return what purges name: method, a space, path with canonical query. HEAD reads what GET has stored."""
    method = "GET" if method == "HEAD" else method
    return f"{method} {path}?{canonical_query(query)}" if query else f"{method} {path}"


def project_part(project: str) -> str:
    """Return the project as it stands in keys; valid ids stay unchanged."""
    return quote(project, safe="")


def primary_key(
    project: str, provider: str, target: str, fields: Fields, digest: str | None = None, lifetime: str = ""
) -> str:
    """Return the key without its vary part.

    Args:
        target: As canonical_target gives it.
        fields: The request's, names in upper case.
        digest: SHA-256 of the body of an opted-in POST, in hex.
        lifetime: The lifetime that such a request asks for: `smax=N` or `max=N`.
    """
    chosen = tuple(field for field in fields if field[0].startswith(CHOSEN))
    if digest is None:
        hashed = _remembered_primary if len(target) <= _REMEMBERED_CHARS and not chosen else _primary
        return hashed(project, (provider, target, chosen))
    about = [list(field) for field in fields if field[0] in _BODY_FIELDS]
    return _primary(project, (provider, target, chosen, about, digest, lifetime))


def _primary(project: str, parts: tuple[object, ...]) -> str:
    return f"{FORMAT}:{project_part(project)}:{hashlib.sha256(orjson.dumps(parts)).hexdigest()}"


_remembered_primary = lru_cache(2048)(_primary)


def variant_key(primary: str, vary: Sequence[str], fields: Fields) -> str:
    """Return the whole key: the hash of exactly the listed fields; an absent field is not an empty one."""
    selected: dict[str, str | None] = dict.fromkeys(vary)
    length = 0
    for name, value in fields:
        if name in selected:
            known = selected[name]
            selected[name] = value if known is None else f"{known}, {value}"
            length += len(value)
    digest = (_remembered_digest if length <= _REMEMBERED_CHARS else _digest)(tuple(selected.items()))
    return f"{primary}:{digest}"


def _digest(selected: tuple[tuple[str, str | None], ...]) -> str:
    """Of names in their order, with normal values."""
    normal = [[name, None if value is None else _normal(name, value)] for name, value in selected]
    return hashlib.sha256(orjson.dumps(normal)).hexdigest()


_remembered_digest = lru_cache(2048)(_digest)


def _normal(name: str, value: str) -> str:
    """Without what changes no meaning: space around list items, and for negotiation fields their case."""
    value = value.strip()
    if name not in _CASELESS:
        return value
    return ",".join(item.strip() for item in value.lower().replace(" ", "").replace("\t", "").split(","))


def vary_names(lines: Sequence[str]) -> tuple[str, ...] | None:
    """Return the names that a response varies by, in upper case and sorted; None for `*`, empty without Vary.

    Origin is left out: what varies by it are the Access-Control fields, which are not stored.
    """
    names = {name.strip().upper() for line in lines for name in line.split(",")} - {"", "ORIGIN"}
    return None if "*" in names else tuple(sorted(names))
