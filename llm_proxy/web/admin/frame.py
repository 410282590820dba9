"""What every page shares: viewer, navigation, addresses of assets, filters of templates, and how a page is rendered."""

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, Response, current_app, make_response, render_template, request, url_for
from jinja2 import ChoiceLoader, FileSystemLoader, PrefixLoader
from markupsafe import Markup, escape

from llm_proxy import __version__
from llm_proxy.access.caller import Caller
from llm_proxy.access.roles import operation
from llm_proxy.errors import Forbidden, Unauthorized
from llm_proxy.runtime.clock import parse_rfc3339, rfc3339, utc_now
from llm_proxy.web import context
from llm_proxy.web.admin import cookies, messages
from llm_proxy.web.admin.api import ApiRequest, ApiResponse, LocalApi, ManagementApi
from llm_proxy.web.admin.assets import asset

_log = logging.getLogger(__name__)
READ_ONLY = "the admin UI is read-only (ADMIN_UI_READ_ONLY)"
API = "llm_proxy_admin_api"  # key of app.extensions: the ManagementApi of the pages


@dataclass(frozen=True, slots=True)
class Page:
    """An entry of the navigation: shown to viewers that may call the operation.

    Attributes:
        endpoint: Of the blueprint, such as `projects`.
        operation: Method and path of the management API that the page needs.
    """

    endpoint: str
    label: str
    icon: str
    operation: tuple[str, str]


SECTIONS: tuple[tuple[str, tuple[Page, ...]], ...] = (
    (
        "",
        (
            Page("dashboard", "Dashboard", "layout-dashboard", ("GET", "/manage/projects")),
            Page("projects", "Projects", "folder", ("GET", "/manage/projects")),
            Page("tokens", "Tokens", "key-round", ("GET", "/manage/tokens")),
        ),
    ),
    (
        "Observe",
        (
            Page("usage", "Usage", "chart-line", ("GET", "/manage/usage")),
            Page("streams", "Open streams", "radio", ("GET", "/manage/streams")),
            Page("events", "Events", "activity", ("GET", "/manage/events/tail")),
            Page("audit", "Audit Events", "scroll-text", ("GET", "/manage/audit")),
        ),
    ),
    (
        "Operate",
        (
            Page("playground", "Playground", "play", ("POST", "/manage/tokens")),
            Page("cache", "Cache", "hard-drive", ("GET", "/manage/cache")),
            Page("dispatcher", "Dispatcher", "send", ("GET", "/manage/dispatcher")),
            Page("settings", "Settings", "settings", ("GET", "/manage/settings")),
            Page("doctor", "Doctor", "heart-pulse", ("GET", "/manage/doctor")),
        ),
    ),
    (
        "Administer",
        (
            Page("keys", "Management keys", "key", ("GET", "/manage/keys")),
            Page("people", "People", "users", ("GET", "/manage/sessions")),
        ),
    ),
)


def viewer() -> Caller:
    """Return the viewer of the page. Raises Unauthorized without a session."""
    session = cookies.session()
    if session is None:
        raise Unauthorized("sign in first")
    return session.caller


def may(method: str, path: str) -> bool:
    """Whether the viewer may use an operation of the management API, by the table of roles and the read-only mode."""
    try:
        require(method, path)
    except Forbidden:
        return False
    return True


def require(method: str, path: str) -> None:
    """Raise Forbidden unless the viewer may use an operation, and the UI may change things where it does."""
    if method != "GET" and is_read_only():
        raise Forbidden(READ_ONLY)
    viewer().require(operation(method, path))


def is_read_only() -> bool:
    """Whether ADMIN_UI_READ_ONLY forbids every change by the UI."""
    return bool(context.services().settings.operation.admin_ui_read_only)


def api(
    method: str,
    path: str,
    *,
    query: Mapping[str, object] | None = None,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
) -> ApiResponse:
    """Call the management API as the viewer. Raises ApiRefused, ResourceNotFound."""
    return client().call(ApiRequest(viewer(), method, path, query or {}, body, headers or {}))


def client() -> ManagementApi:
    """Return the client of the management API."""
    found: ManagementApi = current_app.extensions[API]
    return found


def stream(path: str, *, query: Mapping[str, object] | None = None) -> Iterator[bytes]:
    """Return the pieces of a response of the management API that goes on, as `api`."""
    return client().stream(ApiRequest(viewer(), "GET", path, query or {}))


def page(template: str, status: int = 200, **values: Any) -> Response:
    """Return a rendered page of the package, or of ADMIN_UI_TEMPLATE_DIR where it has one of that name."""
    response = make_response(render_template(f"admin/{template}", **values), status)
    response.headers["Vary"] = "HX-Request, Cookie"
    return response


def register(bp: Blueprint) -> None:
    """Add what templates use to the blueprint, and the default client of the API to the application."""

    @bp.record_once
    def setup(state: Any) -> None:
        local: ManagementApi = LocalApi()
        state.app.extensions.setdefault(API, local)
        state.app.jinja_env.filters.update(FILTERS)
        folder = state.app.extensions["llm_proxy"].settings.operation.admin_ui_template_dir
        if folder is not None:
            if not folder.is_dir():
                _log.warning("ADMIN_UI_TEMPLATE_DIR=%s: expected a folder; the package's pages are used", folder)
            replaced = PrefixLoader({"admin": FileSystemLoader(folder)})
            state.app.jinja_env.loader = ChoiceLoader([replaced, state.app.jinja_env.loader])

    @bp.context_processor
    def shared() -> dict[str, Any]:
        session = cookies.session()
        return {
            "asset": asset,
            "csrf_token": cookies.form_token,
            "is_read_only": is_read_only(),
            "may": may,
            "messages": [] if session is None else messages.taken(),
            "navigation": [] if session is None else _navigation(),
            "now": utc_now(),
            "version": __version__,
            "viewer": None if session is None else session.caller,
            "with_query": with_query,
        }


def _navigation() -> list[dict[str, Any]]:
    here = (request.endpoint or "").removeprefix("admin.").partition("_")[0]
    sections = []
    for title, entries in SECTIONS:
        links = [
            {
                "href": url_for(f"admin.{entry.endpoint}"),
                "icon": entry.icon,
                "label": entry.label,
                "is_current": entry.endpoint.partition("_")[0] == here,
            }
            for entry in entries
            if f"admin.{entry.endpoint}" in current_app.view_functions and may(*entry.operation)
        ]
        if links:
            sections.append({"title": title, "links": links})
    return sections


def with_query(**changes: object) -> str:
    """Return this page's address with some query parameters changed; None removes one."""
    kept = {name: value for name, value in request.args.items() if name not in changes}
    kept |= {name: str(value) for name, value in changes.items() if value not in (None, "")}
    return request.script_root + request.path + (f"?{urlencode(kept)}" if kept else "")


def _instant(value: object) -> datetime | None:
    if isinstance(value, str):
        return parse_rfc3339(value)
    return value if isinstance(value, datetime) else None


def _as_rfc3339(value: object) -> str:
    at = _instant(value)
    return "" if at is None else rfc3339(at)


def _as_utc(value: object) -> str:
    at = _instant(value)
    return "" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _number(value: object) -> str:
    return "–" if value is None else f"{int(str(value)):,}"


def _usd(value: object) -> str:
    """Return an amount of USD, with as many digits as it needs to say something."""
    if value is None:
        return "–"
    amount = Decimal(str(value))
    if amount >= 1 or amount == 0:
        return f"{amount:,.2f}"
    return f"{amount:.4f}" if amount >= Decimal("0.01") else f"{amount:.6f}"


def _hint(value: str) -> str:
    """Return a token's hint with its stars shortened."""
    return re.sub(r"\*{3,}", "…", value)


def _latency(value: int | None) -> str:
    """Return milliseconds as text: in seconds from one second on."""
    if value is None:
        return "–"
    return f"{value:,} ms" if value < 1000 else f"{value / 1000:,.1f} s"


def _compact(value: object) -> Markup:
    """Return a number as a tile shows it: from a million on in millions or billions, exact on hover."""
    if value is None:
        return Markup("–")
    number = int(str(value))
    if abs(number) < 1_000_000:
        return Markup(escape(f"{number:,}"))  # noqa: S704  (escaped)
    size, letter = (1_000_000_000, "B") if abs(number) >= 1_000_000_000 else (1_000_000, "M")
    return Markup('<span title="{}">{}</span>').format(f"{number:,}", f"{number / size:,.2f} {letter}")


def _compact_usd(value: object) -> Markup:
    """Return an amount of USD as a tile shows it: from ten thousand on without cents, exact on hover."""
    shown = _usd(value)
    if value is None or Decimal(str(value)) < 10_000:
        return escape(shown)
    return Markup('<span title="{}">{:,.0f}</span>').format(shown, Decimal(str(value)))


FILTERS = {
    "compact": _compact,
    "compact_usd": _compact_usd,
    "latency": _latency,
    "hint": _hint,
    "rfc3339": _as_rfc3339,
    "utc": _as_utc,
    "number": _number,
    "usd": _usd,
}
