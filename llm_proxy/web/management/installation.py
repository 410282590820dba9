"""/manage/settings, /manage/doctor and /manage/cache: how this server is set up, and how it is doing."""

from flask import Blueprint, Response

from llm_proxy import metrics
from llm_proxy.model.audit_actions import AuditAction
from llm_proxy.settings import variables
from llm_proxy.settings.formatting import shown
from llm_proxy.web import context
from llm_proxy.web.context import services
from llm_proxy.web.management import rendering
from llm_proxy.web.management.audited import current
from llm_proxy.web.management.routing import add


def routes(bp: Blueprint) -> None:
    """Add the routes."""
    add(bp, "/settings", "GET", settings)
    add(bp, "/doctor", "GET", doctor)
    add(bp, "/cache", "GET", cache)


def settings() -> Response:
    """Return 200 with each variable, its value and its source; of a secret, only whether it is set."""
    with current().attempt(AuditAction.SETTINGS_READ, "failed to read the settings") as attempt:
        sources = context.services().sources
        found = [
            {
                "variable": variable.env,
                "value": shown(services().settings, path),
                "source": sources.get(variable.env, "default"),
                "help": variable.help,
            }
            for path, variable in variables().items()
        ]
        attempt.succeeded()
    return rendering.json_response(found)


def doctor() -> Response:
    """Return 200 with findings that are at most 30 s old."""
    with current().attempt(AuditAction.DOCTOR_READ, "failed to examine the installation"):
        found = context.services().findings.current()
    return rendering.json_response(found)


def cache() -> Response:
    """Return 200 with the figures since the server's start; null for what a cache that is off does not have."""
    with current().attempt(AuditAction.CACHE_READ, "failed to read the cache's figures"):
        found = _cache_figures()
    return rendering.json_response(found)


def _cache_figures() -> dict[str, object]:
    services = context.services()
    cache, settings = services.response_cache, services.settings
    totals = metrics.totals()
    hits, misses = int(totals["cache_hits"]), int(totals["cache_misses"])
    return {
        "is_enabled": cache is not None,
        "backend": settings.cache.backend if cache is not None else None,
        "hits": hits,
        "misses": misses,
        "bypass": int(totals["cache_bypass"]),
        "stores": int(totals["cache_stores"]),
        "hit_ratio": round(hits / (hits + misses), 4) if hits + misses else None,
        "stored_bytes": int(cache.store.stored_bytes()) if cache is not None else None,
        "uptime_seconds": int(totals["uptime_seconds"]),
    }
