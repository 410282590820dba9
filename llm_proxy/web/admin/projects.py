"""Projects: list, page, creation and changes."""

from typing import Any

from flask import Blueprint, request
from werkzeug.wrappers import Response
from wtforms import BooleanField, DecimalField, Form, IntegerField, PasswordField, SelectField, StringField
from wtforms.validators import InputRequired, Length, Optional

from llm_proxy.db.pagination import Total
from llm_proxy.errors import LlmProxyError
from llm_proxy.runtime.clock import utc_now
from llm_proxy.web.admin import confirm, forms, frame, lists, messages, project_actions, provider_keys, routing
from llm_proxy.web.admin.api import ApiResponse

_PRIVACY = [("full", "Full: with bodies"), ("metadata", "Metadata: without bodies"), ("off", "Off: no events")]
COLUMNS = (
    "id", "name", "api_key", "is_active", "created_at", "created_by", "updated_at", "deactivated_at",
    "requests_per_minute", "tokens_per_minute", "max_cost_usd_per_month", "event_privacy", "token_count",
)  # fmt: skip
_TAKEN = "project_exists"  # code of the API
_REQUIRED = "Please fill in all required fields"


class ProjectForm(Form):
    """What a person may say of a project."""

    name = StringField("Name", [InputRequired(), Length(max=255)])
    api_key = PasswordField("Provider key", [Optional()], render_kw={"autocomplete": "off"})
    is_active = BooleanField("Active")
    event_privacy = SelectField("Events", [Optional()], choices=forms.choices(_PRIVACY), validate_choice=False)
    requests_per_minute = IntegerField("Requests per minute", [Optional()])
    tokens_per_minute = IntegerField("Model tokens per minute", [Optional()])
    max_cost_usd_per_month = DecimalField("Budget per month (USD)", [Optional()], places=None)

    def values(self) -> dict[str, Any]:
        """Return the members of the API's object; key and privacy only where the form has them."""
        found = {name: field.data for name, field in self._fields.items()}
        if found["max_cost_usd_per_month"] is not None:
            found["max_cost_usd_per_month"] = float(found["max_cost_usd_per_month"])
        return {name: value for name, value in found.items() if value or name not in ("api_key", "event_privacy")}


def routes(bp: Blueprint) -> None:
    """Add the routes."""
    lists.routes(bp, "/projects", "projects", _list)
    project_actions.routes(bp)
    provider_keys.routes(bp)
    routing.add_items(bp, "projects", "project_id", new=new, create=create, show=show, edit=edit, update=update)


def new() -> Response:
    """Return the form of a new project."""
    return frame.page("projects/form.html", form=ProjectForm(event_privacy="full", is_active=True), project=None)


def create() -> Response:
    """303 to the project; 400 or 409 with the form and what is wrong."""
    form = ProjectForm(request.form)
    if not form.validate():
        return _again(form, _REQUIRED, 400)
    values = form.values()
    del values["is_active"]
    try:
        made = frame.api("POST", "/manage/projects", body=values)
    except LlmProxyError as refused:
        if not form.api_key.data and refused.status == 400 and "required" in refused.message:
            return _again(form, _REQUIRED, 400)
        _tell(form, refused)
        return _again(form, None, refused.status)
    return messages.redirect_with("Project created.", "projects_show", project_id=made.data["id"])


def show(project_id: str) -> Response:
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


def edit(project_id: str) -> Response:
    """Return the form of a project as it is."""
    project = frame.api("GET", f"/manage/projects/{project_id}")
    return _form(ProjectForm(data={**project.data, "api_key": ""}), project)


def update(project_id: str) -> Response:
    """303 to the project; 400 or 409 with the form and what is wrong; a deletion is refused with 405."""
    if forms.method() == "DELETE":
        frame.api("DELETE", f"/manage/projects/{project_id}")
    project, form = frame.api("GET", f"/manage/projects/{project_id}"), ProjectForm(request.form)
    if "is_active" in request.form:
        form.is_active.data = forms.is_checked("is_active")
    else:
        form.is_active.data = project.data["is_active"]
    if not form.validate():
        return _form(form, project, _REQUIRED, 400)
    is_ended = project.data["is_active"] and not form.is_active.data
    if is_ended and (typed := project_actions.unconfirmed(project_id)) is not None:
        return _form(form, project, f"Type {typed} to confirm.", 422, typed=typed)
    named = {name: value for name, value in form.values().items() if name in request.form or name == "is_active"}
    refused = _change(project_id, forms.changes(named, project.data), request.form.get("tag") or project.tag)
    if refused is not None:
        return _refused(form, project, refused)
    return messages.redirect_with("Project saved.", "projects_show", project_id=project_id)


def _change(project_id: str, body: dict[str, Any], tag: str) -> LlmProxyError | None:
    """Write the changes to the version that was seen; what the API refused, None where it did not."""
    try:
        frame.api("PATCH", f"/manage/projects/{project_id}", body=body, headers={"If-Match": tag})
    except LlmProxyError as refused:
        return refused
    return None


def _refused(form: ProjectForm, project: ApiResponse, refused: LlmProxyError) -> Response:
    """Show the form and what is wrong; of a conflict both versions: the form's, and the saved one below it."""
    if refused.status == 412:
        return _form(form, project, None, 409, conflict=project.data)
    _tell(form, refused)
    return _form(form, project, None, refused.status)


def _tell(form: ProjectForm, refused: LlmProxyError) -> None:
    """Show what the API refused at its field; a name that is taken at the name."""
    if refused.code == _TAKEN:
        form.name.errors = [*form.name.errors, refused.message]
    else:
        forms.show_error(form, refused)


def _list(form: str | None) -> Response:
    wanted = {**lists.query("search", "is_active"), "token_counts": "true"}
    if form is not None:
        rows = map(_counted, lists.parts("/manage/projects", wanted))
        return lists.stream(form, "projects", rows, COLUMNS)
    found = lists.read("/manage/projects", {**wanted, **lists.place()})
    return frame.page(
        "projects/list.html",
        projects=_counted(found.data),
        paging=lists.paging(found),
        sort=wanted["sort"],
        is_filtered=any(wanted[name] for name in ("search", "is_active")),
    )


def _counted(projects: lists.Rows) -> lists.Rows:
    """Return the projects with their token counts as text, such as `10,000+`; None of a proxy that tells none."""
    return [_with_count(**project) for project in projects]


def _with_count(tokens: dict[str, Any] | None = None, **project: Any) -> dict[str, Any]:
    return {**project, "token_count": None if tokens is None else str(Total(**tokens))}


def _usage(project_id: str) -> dict[str, Any] | None:
    """Return the sums of the present month."""
    today = utc_now().date()
    query = {"project_id": project_id, "from": today.replace(day=1).isoformat(), "to": today.isoformat()}
    if not frame.may("GET", "/manage/usage"):
        return None
    rows: list[dict[str, Any]] = frame.api("GET", "/manage/usage", query=query).data["data"]
    return rows[0] if rows else None


def _form(
    form: ProjectForm,
    project: ApiResponse,
    error: str | None = None,
    status: int = 200,
    *,
    conflict: dict[str, Any] | None = None,
    typed: str | None = None,
) -> Response:
    """Return the form of a project that there is, with what its deactivation would hit."""
    saved = project.data
    impact = project_actions.impact(saved["id"]) if saved["is_active"] else None
    return frame.page(
        "projects/form.html",
        status,
        form=form,
        project=saved,
        tag=project.tag,
        error=error,
        conflict=conflict,
        impact=impact,
        typed=typed,
        count_name=confirm.COUNT,
    )


def _again(form: ProjectForm, error: str | None, status: int) -> Response:
    return frame.page("projects/form.html", status, form=form, project=None, error=error)
