"""Projects: list, page, creation and changes."""

from typing import Any

from flask import Blueprint, redirect, request, url_for
from werkzeug.wrappers import Response
from wtforms import BooleanField, DecimalField, Form, IntegerField, PasswordField, SelectField, StringField
from wtforms.validators import InputRequired, Length, Optional

from llm_proxy.errors import LlmProxyError
from llm_proxy.runtime.clock import utc_now
from llm_proxy.web.admin import forms, frame, lists, messages, project_actions, provider_keys
from llm_proxy.web.admin.api import ApiResponse

_PRIVACY = [("full", "Full: with bodies"), ("metadata", "Metadata: without bodies"), ("off", "Off: no events")]
COLUMNS = (
    "id", "name", "api_key", "is_active", "created_at", "created_by", "updated_at", "deactivated_at",
    "requests_per_minute", "tokens_per_minute", "max_cost_usd_per_month", "event_privacy",
)  # fmt: skip
_REQUIRED = "Please fill in all required fields"


class ProjectForm(Form):
    """What a person may say of a project."""

    name = StringField("Name", [InputRequired(), Length(max=255)])
    api_key = PasswordField("Provider key", [Optional()], render_kw={"autocomplete": "off"})
    is_active = BooleanField("Active")
    event_privacy = SelectField("Events", choices=forms.choices(_PRIVACY))
    requests_per_minute = IntegerField("Requests per minute", [Optional()])
    tokens_per_minute = IntegerField("Model tokens per minute", [Optional()])
    max_cost_usd_per_month = DecimalField("Budget per month (USD)", [Optional()], places=None)

    def values(self) -> dict[str, Any]:
        """Return the members of the API's object; the key only where one was typed."""
        found = {name: field.data for name, field in self._fields.items()}
        if found["max_cost_usd_per_month"] is not None:
            found["max_cost_usd_per_month"] = float(found["max_cost_usd_per_month"])
        if not found["api_key"]:
            del found["api_key"]
        return found


def routes(bp: Blueprint) -> None:
    """Add the routes."""

    lists.routes(bp, "/projects", "projects", _list)
    project_actions.routes(bp)
    provider_keys.routes(bp)

    @bp.get("/projects/new")
    def projects_new() -> Response:
        """Return the form of a new project."""
        return frame.page("projects/form.html", form=ProjectForm(event_privacy="full", is_active=True), project=None)

    @bp.post("/projects", endpoint="projects_create")
    def create() -> Response:
        """303 to the project; 400 or 409 with the form and what is wrong."""
        form = ProjectForm(request.form)
        if not form.validate():
            return _again(form, None, _REQUIRED, 400)
        values = form.values()
        del values["is_active"]
        try:
            made = frame.api("POST", "/manage/projects", body=values)
        except LlmProxyError as refused:
            if not form.api_key.data and refused.status == 400 and "required" in refused.message:
                return _again(form, None, _REQUIRED, 400)
            forms.show_error(form, refused)
            return _again(form, None, None, refused.status)
        messages.say("Project created.")
        return redirect(url_for("admin.projects_show", project_id=made.data["id"]), 303)

    @bp.get("/projects/<project_id>")
    def projects_show(project_id: str) -> Response:
        """Return the page of a project."""
        project = frame.api("GET", f"/manage/projects/{project_id}")
        tokens = frame.api("GET", "/manage/tokens", query={"project_id": project_id, "limit": 10})
        return frame.page(
            "projects/show.html",
            project=project.data,
            tokens=tokens.data,
            counts=project_actions.counts(project_id),
            provider_keys=provider_keys.card(project_id),
            usage=_usage(project_id),
        )

    @bp.get("/projects/<project_id>/edit")
    def projects_edit(project_id: str) -> Response:
        """Return the form of a project as it is."""
        project = frame.api("GET", f"/manage/projects/{project_id}")
        form = ProjectForm(data={**project.data, "api_key": ""})
        return frame.page("projects/form.html", form=form, project=project.data, tag=project.tag)

    @bp.route("/projects/<project_id>", methods=["POST", "PUT", "DELETE"], endpoint="projects_update")
    def update(project_id: str) -> Response:
        """303 to the project; 400, 409 or 412 with the form and what is wrong; a deletion is refused with 405."""
        if forms.method() == "DELETE":
            frame.api("DELETE", f"/manage/projects/{project_id}")
        project = frame.api("GET", f"/manage/projects/{project_id}")
        form = ProjectForm(request.form)
        is_active = project.data["is_active"]
        form.is_active.data = forms.is_checked("is_active") if "is_active" in request.form else is_active
        if not form.validate():
            return _again(form, project.data, _REQUIRED, 400)
        tag = request.form.get("tag") or project.tag
        named = {name: value for name, value in form.values().items() if name in request.form or name == "is_active"}
        body = forms.changes(named, project.data)
        try:
            frame.api("PATCH", f"/manage/projects/{project_id}", body=body, headers={"If-Match": tag})
        except LlmProxyError as refused:
            if refused.status == 412:
                return _conflict(form, project)
            forms.show_error(form, refused)
            return _again(form, project.data, None, refused.status)
        messages.say("Project saved.")
        return redirect(url_for("admin.projects_show", project_id=project_id), 303)


def _list(form: str | None) -> Response:
    wanted = lists.query("search", "is_active")
    if form is not None:
        return lists.stream(form, "projects", lists.parts("/manage/projects", wanted), COLUMNS)
    found = lists.read("/manage/projects", {**wanted, **lists.place()})
    return frame.page(
        "projects/list.html",
        projects=found.data,
        paging=lists.paging(found),
        sort=wanted["sort"],
        is_filtered=any(wanted[name] for name in ("search", "is_active")),
    )


def _usage(project_id: str) -> dict[str, Any] | None:
    """Return the sums of the present month."""
    today = utc_now().date()
    query = {"project_id": project_id, "from": today.replace(day=1).isoformat(), "to": today.isoformat()}
    if not frame.may("GET", "/manage/usage"):
        return None
    rows: list[dict[str, Any]] = frame.api("GET", "/manage/usage", query=query).data["data"]
    return rows[0] if rows else None


def _conflict(form: ProjectForm, project: ApiResponse) -> Response:
    """Show both versions: what the person typed in the form, and what was saved meanwhile beside it."""
    saved = project.data
    return frame.page("projects/form.html", 409, form=form, project=saved, tag=project.tag, conflict=saved)


def _again(form: ProjectForm, project: Any, error: str | None, status: int) -> Response:
    return frame.page("projects/form.html", status, form=form, project=project, error=error)
