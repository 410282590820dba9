"""/manage/cache/purge (MP-64, DP-155)."""

from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, Response

from llm_proxy.errors import BadRequest
from llm_proxy.web.management import answers, inputs
from llm_proxy.web.management.call import current
from llm_proxy.web.management.routing import Services, add


def routes(bp: Blueprint, services: Services) -> None:
    """Add the route."""

    def purge() -> Response:
        """200 with what was deleted; 400 says why not."""
        with current().attempt("cache.purge", "proxy not available") as attempt:
            cache = services().cache_purge
            if cache is None:
                raise _refused("caching is disabled", "caching_disabled")
            method, url, prefix = _wanted()
            if prefix:
                count = cache.purge_prefix(prefix)
                attempt.succeeded(purge_type="prefix", prefix=prefix, deleted=count)
                return answers.answer({"deleted": count})
            found = cache.purge_exact(method, url)
            attempt.succeeded(purge_type="exact", method=method, url=url, deleted=found)
            return answers.answer({"deleted": found})

    add(bp, "/cache/purge", "POST", purge)


def _wanted() -> tuple[str, str, str]:
    try:
        wanted: dict[str, Any] = inputs.json_object()
    except BadRequest as error:
        raise _refused("invalid JSON", "invalid_json") from error
    values = [wanted.get(name) or "" for name in ("method", "url", "prefix")]
    if not all(isinstance(value, str) for value in values):
        raise _refused("invalid JSON", "invalid_json")
    method, url, prefix = values
    if not prefix and not (method and url):
        raise _refused("method and url are required", "missing_fields")
    if not prefix and not _is_address(url):
        raise _refused("invalid URL", "invalid_url")
    return method, url, prefix


def _is_address(url: str) -> bool:
    try:
        return urlsplit(url).path.startswith("/") and url.isprintable() and " " not in url
    except ValueError:
        return False


def _refused(message: str, reason: str) -> BadRequest:
    return BadRequest(message, audit={"reason": reason})
