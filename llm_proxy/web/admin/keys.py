"""Management keys: list, page, creation, changes, the roll and the revocation."""

import uuid
from typing import Any

from flask import Blueprint, request, url_for
from werkzeug.wrappers import Response
from wtforms import Form, SelectField, SelectMultipleField, StringField
from wtforms.validators import InputRequired, Length

from llm_proxy.access.roles import ROLES
from llm_proxy.errors import LlmProxyError
from llm_proxy.web.admin import confirm, forms, frame, lists, messages, routing
from llm_proxy.web.admin.api import ApiResponse
from llm_proxy.web.admin.token_forms import in_words, overlaps
from llm_proxy.web.admin.tokens import project_names

COLUMNS = ("id", "name", "role", "projects", "expires_at", "created_at", "created_by", "last_used_at")
_REQUIRED = "Please fill in all required fields"
_NEVER, _KEPT = "never", "kept"
_LIFETIMES = (60, 1440, 10080, 43200, 129600, 525600)
_MEANINGS = {
    "viewer": "Viewer: reads, never secrets",
    "issuer": "Issuer: creates and revokes tokens, for programs",
    "operator": "Operator: tokens, revocation, cache, dead letters",
    "admin": "Admin: everything, provider keys too",
}


class KeyForm(Form):
    """What a person says of a management key."""

    name = StringField("Name", [InputRequired(), Length(max=100)])
    role = SelectField(
        "Role", choices=forms.choices((role, _MEANINGS[role]) for role in sorted(ROLES, key=list(_MEANINGS).index))
    )
    projects = SelectMultipleField("Projects", validate_choice=False)
    lifetime = SelectField("Expires", validate_choice=False)

    def values(self) -> dict[str, Any]:
        """Return the members of the API's object."""
        found: dict[str, Any] = {"name": self.name.data, "role": self.role.data, "projects": self.projects.data or None}
        if self.lifetime.data == _NEVER:
            found["expires_at"] = None
        elif (self.lifetime.data or "").isdigit():
            found["duration_minutes"] = int(self.lifetime.data)
        return found


def routes(bp: Blueprint) -> None:
    """Add the routes."""
    lists.routes(bp, "/keys", "keys", _list)
    routing.add_items(bp, "keys", "key_id", new=new, create=create, show=show, edit=edit, update=update)
    one = "/keys/<key_id>"
    routing.add_form(bp, f"{one}/revoke", "keys_revoke", ask_revoke, revoke, "DELETE /manage/keys/{id}")
    routing.add_form(bp, f"{one}/roll", "keys_roll", ask_roll, roll, "POST /manage/keys/{id}/roll")


def new() -> Response:
    """Return the form of a new key."""
    return _form(KeyForm(role="operator", lifetime="129600"))


def create() -> Response:
    """200 with the key, shown this once; 400, 403 or 409 with the form and what is wrong."""
    form = KeyForm(request.form)
    if not form.validate():
        return _form(form, error=_REQUIRED, status=400)
    try:
        made = frame.api("POST", "/manage/keys", body=form.values(), headers=forms.once())
    except LlmProxyError as refused:
        forms.show_error(form, refused)
        return _form(form, status=refused.status)
    return frame.page("keys/created.html", key=made.data, title="Management key created", note=None)


def show(key_id: str) -> Response:
    """Return the page of a key."""
    key = frame.api("GET", f"/manage/keys/{key_id}").data
    return frame.page("keys/show.html", key=key, projects=project_names(key["projects"] or ()))


def edit(key_id: str) -> Response:
    """Return the form of a key as it is."""
    key = frame.api("GET", f"/manage/keys/{key_id}")
    form = KeyForm(data={**key.data, "projects": key.data["projects"] or [], "lifetime": _KEPT})
    return _form(form, key)


def update(key_id: str) -> Response:
    """303 to the key; 400, 403 or 409 with the form and what is wrong."""
    if forms.method() == "DELETE":
        return revoke(key_id)
    key, form = frame.api("GET", f"/manage/keys/{key_id}"), KeyForm(request.form)
    if not form.validate():
        return _form(form, key, _REQUIRED, 400)
    body, tag = forms.changes(form.values(), key.data), request.form.get("tag") or key.tag
    try:
        if body:
            frame.api("PATCH", f"/manage/keys/{key_id}", body=body, headers={"If-Match": tag})
    except LlmProxyError as refused:
        if refused.status == 412:
            return _form(form, key, status=409, is_conflict=True)
        forms.show_error(form, refused)
        return _form(form, key, status=refused.status)
    return messages.redirect_with("Management key saved.", "keys_show", key_id=key_id)


def ask_revoke(key_id: str) -> Response:
    """Ask before a key is revoked."""
    key = frame.api("GET", f"/manage/keys/{key_id}").data
    return confirm.page(
        "Revoke management key",
        f"The key {confirm.isolated(key['name'])} is refused within a second, and sessions that it began end. "
        "This cannot be undone.",
        _impact(key),
        action=url_for("admin.keys_revoke_submit", key_id=key_id),
        button="Revoke key",
        cancel=url_for("admin.keys_show", key_id=key_id),
    )


def revoke(key_id: str) -> Response:
    """303 to the list."""
    frame.api("DELETE", f"/manage/keys/{key_id}")
    return messages.redirect_with("Management key revoked.", "keys")


def ask_roll(key_id: str) -> Response:
    """Ask how long the old secret lives on."""
    key = frame.api("GET", f"/manage/keys/{key_id}").data
    return frame.page("keys/roll.html", key=key, impact=_impact(key), overlaps=overlaps(), form_id=uuid.uuid4())


def roll(key_id: str) -> Response:
    """200 with the new secret, shown this once."""
    overlap = request.form.get("overlap_minutes", 0, type=int)
    path = f"/manage/keys/{key_id}/roll"
    made = frame.api("POST", path, body={"overlap_minutes": overlap}, headers=forms.once())
    old = "The old secret ends now." if not overlap else f"The old secret ends in {in_words(overlap)}."
    return frame.page("keys/created.html", key=made.data, title="Management key rolled", note=old)


def _list(form: str | None) -> Response:
    wanted = lists.query("search")
    if form is not None:
        return lists.stream(form, "keys", lists.parts("/manage/keys", wanted), COLUMNS)
    found = lists.read("/manage/keys", {**wanted, **lists.place()})
    return frame.page(
        "keys/list.html",
        keys=found.data,
        paging=lists.paging(found),
        sort=wanted["sort"] or "name",
        is_filtered=bool(wanted["search"]),
    )


def _impact(key: dict[str, Any]) -> str:
    return f"1 key with the role {key['role']}, {confirm.last_used(key['last_used_at'])}"


def _form(
    form: KeyForm,
    key: ApiResponse | None = None,
    error: str | None = None,
    status: int = 200,
    *,
    is_conflict: bool = False,
) -> Response:
    kept = [] if key is None else [(_KEPT, "As it is")]
    lifetimes = [(str(each), f"in {in_words(each)}") for each in _LIFETIMES]
    form.lifetime.choices = forms.choices([*kept, *lifetimes, (_NEVER, "Never")])
    return frame.page(
        "keys/form.html",
        status,
        form=form,
        key=None if key is None else key.data,
        tag=None if key is None else key.tag,
        error=error,
        is_conflict=is_conflict,
        projects=frame.api("GET", "/manage/projects").data,
        form_id=uuid.uuid4(),
    )
