"""A project's keys for the providers that are served: its card, the form that sets one, and the removal."""

from typing import Any
from urllib.parse import quote, unquote

from flask import Blueprint, request, url_for
from werkzeug.wrappers import Response
from wtforms import Form, PasswordField, SelectField
from wtforms.validators import InputRequired

from llm_proxy.errors import LlmProxyError
from llm_proxy.web.admin import confirm, forms, frame, lists, messages, project_actions, routing
from llm_proxy.web.admin.routing import Route

_REQUIRED = "Please fill in all required fields"


class ProviderKeyForm(Form):
    """A provider and its key."""

    provider = SelectField("Provider", validate_choice=False)
    api_key = PasswordField("Provider key", [InputRequired()], render_kw={"autocomplete": "off"})


def card(project_id: str) -> list[dict[str, Any]]:
    """Return a row for each provider, its key obfuscated or None; nothing where one provider is served alone."""
    if not frame.may("GET", "/manage/projects/{id}/provider-keys"):
        return []
    found = frame.api("GET", f"/manage/projects/{project_id}/provider-keys")
    keys = {key["provider"]: key for key in found.data}
    names = [unquote(name) for name in found.headers.get("x-providers", "").split(",") if name]
    rows = [keys.get(name, {"provider": name, "api_key": None}) for name in names]
    rows += [{**key, "is_unserved": True} for name, key in keys.items() if name not in names]
    return rows if len(rows) > 1 else []


def routes(bp: Blueprint) -> None:
    """Add the routes."""
    keys = "/projects/<project_id>/provider-keys"
    api = "/manage/projects/{id}/provider-keys/{provider}"
    routing.add(bp, Route("GET", f"{keys}.<any(csv, json):form>", "projects_provider_keys_rows", keys_file))
    routing.add_form(bp, keys, "projects_provider_key", ask, put, f"PUT {api}")
    removal = f"{keys}/<provider>/remove"
    routing.add_form(bp, removal, "projects_provider_key_remove", ask_removal, remove, f"DELETE {api}")


def keys_file(project_id: str, form: str) -> Response:
    """Return the providers and their obfuscated keys as a file."""
    frame.require("GET", "/manage/projects/{id}/provider-keys")
    columns = ("provider", "api_key", "created_at", "updated_at")
    return lists.file(form, f"provider-keys-{project_id[:8]}", card(project_id), columns)


def ask(project_id: str) -> Response:
    """Return the form that sets a key."""
    return _page(project_id, ProviderKeyForm(provider=request.args.get("provider")))


def put(project_id: str) -> Response:
    """Answer 303 to the project; 400 with the form and what is wrong."""
    form = ProviderKeyForm(request.form)
    if not form.validate():
        return _page(project_id, form, _REQUIRED, 400)
    try:
        frame.api("PUT", _path(project_id, form.provider.data or ""), body={"api_key": form.api_key.data})
    except LlmProxyError as refused:
        forms.show_error(form, refused)
        return _page(project_id, form, None, refused.status)
    return messages.redirect_with(f"Key for {form.provider.data} saved.", "projects_show", project_id=project_id)


def ask_removal(project_id: str, provider: str) -> Response:
    """Ask before a key is removed."""
    project = frame.api("GET", f"/manage/projects/{project_id}").data
    return confirm.page(
        "Remove provider key",
        f"Requests of {confirm.isolated(project['name'])} to {provider} are refused within a second, "
        "until it has a key again. The key is forgotten; it cannot be shown or restored.",
        project_actions.impact(project_id),
        action=url_for("admin.projects_provider_key_remove_submit", project_id=project_id, provider=provider),
        button="Remove key",
        cancel=url_for("admin.projects_show", project_id=project_id),
    )


def remove(project_id: str, provider: str) -> Response:
    """Answer 303 to the project."""
    frame.api("DELETE", _path(project_id, provider))
    return messages.redirect_with(f"Key for {provider} removed.", "projects_show", project_id=project_id)


def _path(project_id: str, provider: str) -> str:
    return f"/manage/projects/{project_id}/provider-keys/{quote(provider, safe='')}"


def _page(project_id: str, form: ProviderKeyForm, error: str | None = None, status: int = 200) -> Response:
    project = frame.api("GET", f"/manage/projects/{project_id}").data
    form.provider.choices = [row["provider"] for row in card(project_id) if not row.get("is_unserved")]
    form.api_key.data = ""
    return frame.page("projects/provider_key.html", status, form=form, project=project, error=error)
