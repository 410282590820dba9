"""Figures of the response cache, and its purge by every scope."""

from typing import Any

from flask import Blueprint, request, url_for
from werkzeug.wrappers import Response
from wtforms import Form, RadioField, StringField
from wtforms.validators import Length, Optional

from llm_proxy.errors import LlmProxyError
from llm_proxy.web.admin import confirm, forms, frame, messages, routing
from llm_proxy.web.admin.routing import Route

_EVERYTHING = "everything"  # to be typed
_SCOPES = [
    ("project", "All responses of a project"),
    ("prefix", "Addresses that begin with a prefix"),
    ("address", "One address"),
    ("key", "One cache key"),
    ("all", "Everything"),
]


class PurgeForm(Form):
    """What is to be removed."""

    scope = RadioField("Scope", choices=forms.choices(_SCOPES), default="project")
    project_id = StringField("Project id", [Optional(), Length(max=36)])
    prefix = StringField("Prefix", [Optional(), Length(max=2048)])
    method = StringField("Method", [Optional(), Length(max=16)], default="GET")
    url = StringField("Address", [Optional(), Length(max=2048)])
    key = StringField("Key", [Optional(), Length(max=128)])

    def body(self) -> dict[str, Any]:
        """Return what the API is told: the fields of the chosen scope alone."""
        names: dict[str, tuple[str, ...]] = {"project": ("project_id",), "prefix": ("prefix", "project_id")}
        names["address"] = ("method", "url", "project_id")
        if self.scope.data == "all":
            return {"all": True}
        wanted = names.get(self.scope.data, ("key",))
        return {name: value for name in wanted if (value := (self._fields[name].data or "").strip())}


def routes(bp: Blueprint) -> None:
    """Add the routes."""
    routing.add(
        bp,
        Route("GET", "/cache", "cache", cache),
        Route("POST", "/cache/purge", "cache_purge", purge),
    )


def cache() -> Response:
    """Return the figures and the form."""
    return _page(PurgeForm(project_id=request.args.get("project_id", "")))


def purge() -> Response:
    """303 to the page; 400, 403 or 404 with the form and what is wrong."""
    form = PurgeForm(request.form)
    body = form.body()
    if not form.validate() or not body:
        form.form_errors.append("Say what is to be removed.")
        return _page(form, 400)
    if body == {"all": True} and (error := confirm.fault(phrase=_EVERYTHING)) is not None:
        return _ask(error if confirm.is_answered() else None)
    try:
        deleted = frame.api("POST", "/manage/cache/purge", body=body).data["deleted"]
    except LlmProxyError as refused:
        forms.show_error(form, refused)
        return _page(form, refused.status)
    return messages.redirect_with(f"{confirm.counted(int(deleted), 'stored response')} removed.", "cache")


def _ask(error: str | None) -> Response:
    """Return the page that asks before everything is removed."""
    figures = frame.api("GET", "/manage/cache").data
    mebibytes = (figures["stored_bytes"] or 0) / 1_048_576
    return confirm.page(
        "Purge the whole cache",
        "Every stored response of every project is removed, in every replica. This cannot be undone.",
        f"{mebibytes:,.1f} MiB stored, {figures['hits']:,} requests served from it since the start; "
        "they are asked of the provider again, which costs time and money.",
        action=url_for("admin.cache_purge"),
        button="Purge everything",
        cancel=url_for("admin.cache"),
        phrase=_EVERYTHING,
        hidden=[("scope", "all")],
        error=error,
    )


def _page(form: PurgeForm, status: int = 200) -> Response:
    return frame.page("cache.html", status, figures=frame.api("GET", "/manage/cache").data, form=form)
