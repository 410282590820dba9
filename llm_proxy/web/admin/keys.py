"""Management keys, and sessions of people."""

import uuid
from typing import Any

from flask import Blueprint, redirect, request, url_for
from werkzeug.wrappers import Response
from wtforms import Form, SelectField, SelectMultipleField, StringField
from wtforms.validators import InputRequired, Length

from llm_proxy.access.roles import OPERATIONS, ROLES
from llm_proxy.errors import LlmProxyError
from llm_proxy.web.admin import confirm, forms, frame, lists, messages
from llm_proxy.web.admin.api import ApiResponse
from llm_proxy.web.admin.token_forms import OVERLAPS, in_words
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
_SESSIONS = ("GET", "/manage/sessions")


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

    @bp.get("/keys/new")
    def keys_new() -> Response:
        """Return the form of a new key."""
        return _form(KeyForm(role="operator", lifetime="129600"))

    @bp.post("/keys", endpoint="keys_create")
    def create() -> Response:
        """200 with the key, shown this once; 400, 403 or 409 with the form and what is wrong."""
        form = KeyForm(request.form)
        if not form.validate():
            return _form(form, error=_REQUIRED, status=400)
        headers = {"Idempotency-Key": request.form.get("form_id") or str(uuid.uuid4())}
        try:
            made = frame.api("POST", "/manage/keys", body=form.values(), headers=headers)
        except LlmProxyError as refused:
            forms.show_error(form, refused)
            return _form(form, status=refused.status)
        return frame.page("keys/created.html", key=made.data, title="Management key created", note=None)

    @bp.get("/keys/<key_id>")
    def keys_show(key_id: str) -> Response:
        """Return the page of a key."""
        key = frame.api("GET", f"/manage/keys/{key_id}").data
        return frame.page("keys/show.html", key=key, projects=project_names(key["projects"] or ()))

    @bp.get("/keys/<key_id>/edit")
    def keys_edit(key_id: str) -> Response:
        """Return the form of a key as it is."""
        key = frame.api("GET", f"/manage/keys/{key_id}")
        form = KeyForm(data={**key.data, "projects": key.data["projects"] or [], "lifetime": _KEPT})
        return _form(form, key)

    @bp.route("/keys/<key_id>", methods=["POST", "PUT", "DELETE"], endpoint="keys_update")
    def update(key_id: str) -> Response:
        """303 to the key; 400, 403, 409 or 412 with the form and what is wrong."""
        if forms.method() == "DELETE":
            return _revoke(key_id)
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
        messages.say("Management key saved.")
        return redirect(url_for("admin.keys_show", key_id=key_id), 303)

    @bp.get("/keys/<key_id>/revoke")
    def keys_revoke(key_id: str) -> Response:
        """Ask before a key is revoked."""
        key = frame.api("GET", f"/manage/keys/{key_id}").data
        used = "never used" if key["last_used_at"] is None else f"last used {confirm.ago(key['last_used_at'])}"
        return confirm.page(
            "Revoke management key",
            f"{key['name']} is refused within a second, and sessions that it began end. This cannot be undone.",
            f"1 key with the role {key['role']}, {used}",
            action=url_for("admin.keys_revoke_submit", key_id=key_id),
            button="Revoke key",
            cancel=url_for("admin.keys_show", key_id=key_id),
        )

    @bp.post("/keys/<key_id>/revoke", endpoint="keys_revoke_submit")
    def revoke(key_id: str) -> Response:
        """303 to the list."""
        return _revoke(key_id)

    @bp.get("/keys/<key_id>/roll")
    def keys_roll(key_id: str) -> Response:
        """Ask how long the old secret lives on."""
        key = frame.api("GET", f"/manage/keys/{key_id}").data
        overlaps = [(each, "not at all: it ends at once" if not each else in_words(each)) for each in OVERLAPS]
        return frame.page("keys/roll.html", key=key, overlaps=overlaps, form_id=uuid.uuid4())

    @bp.post("/keys/<key_id>/roll", endpoint="keys_roll_submit")
    def roll(key_id: str) -> Response:
        """200 with the new secret, shown this once."""
        overlap = request.form.get("overlap_minutes", 0, type=int)
        headers = {"Idempotency-Key": request.form.get("form_id") or str(uuid.uuid4())}
        path = f"/manage/keys/{key_id}/roll"
        made = frame.api("POST", path, body={"overlap_minutes": overlap}, headers=headers)
        old = "The old secret ends now." if not overlap else f"The old secret ends in {in_words(overlap)}."
        return frame.page("keys/created.html", key=made.data, title="Management key rolled", note=old)

    if _SESSIONS in OPERATIONS:
        _session_routes(bp)


def _session_routes(bp: Blueprint) -> None:
    def people(form: str | None) -> Response:
        """Show the people who are signed in."""
        rows = frame.api("GET", "/manage/sessions").data
        if form is not None:
            return lists.file(form, "sessions", rows, tuple(rows[0]) if rows else ())
        return frame.page("keys/people.html", sessions=rows, files=lists.files())

    lists.routes(bp, "/people", "people", people)

    @bp.post("/people/<session_id>/end", endpoint="people_end")
    def end(session_id: str) -> Response:
        """303 to the list."""
        frame.api("DELETE", f"/manage/sessions/{session_id}")
        messages.say("Session ended.")
        return redirect(url_for("admin.people"), 303)


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


def _revoke(key_id: str) -> Response:
    frame.api("DELETE", f"/manage/keys/{key_id}")
    messages.say("Management key revoked.")
    return redirect(url_for("admin.keys"), 303)


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
