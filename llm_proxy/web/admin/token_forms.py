"""Tokens: creation, the page that shows a new one this once, changes, and the roll."""

import math
import re
import uuid
from typing import Any

import orjson
from flask import request
from werkzeug.wrappers import Response
from wtforms import DecimalField, Form, IntegerField, SelectField, StringField, TextAreaField
from wtforms.validators import InputRequired, Length, NumberRange, Optional, ValidationError

from llm_proxy.errors import LlmProxyError
from llm_proxy.settings.variable import duration_s
from llm_proxy.web import context
from llm_proxy.web.admin import confirm, forms, frame, messages
from llm_proxy.web.admin.api import ApiResponse

_REQUIRED = "Please fill in all required fields correctly"
_UNITS = ((1440, "day"), (60, "hour"), (1, "minute"))
DURATIONS = (5, 10, 15, 30, 60, 120, 180, 360, 720, 1440, 2880, 4320, 10080, 43200, 525600)
OVERLAPS = (0, 5, 15, 60, 360, 1440, 10080)
_OTHER = "other"
ROLL = "POST /manage/tokens/{id}/roll"


def in_words(minutes: int) -> str:
    """Return a number of minutes in its largest whole unit."""
    length, unit = next((length, unit) for length, unit in _UNITS if minutes % length == 0)
    number = minutes // length
    return f"{number} {unit}{'' if number == 1 else 's'}"


def overlaps() -> list[tuple[int, str]]:
    """Return what can be chosen of how long an old secret lives on, in minutes and in words."""
    return [(each, in_words(each) if each else "not at all: it ends at once") for each in OVERLAPS]


class LimitsForm(Form):
    """What can be changed of a token."""

    name = StringField("Name", [Optional(), Length(max=255)])
    description = TextAreaField("Description", [Optional()])
    providers = StringField("Providers", [Optional()])
    max_requests = IntegerField("Max requests", [Optional(), NumberRange(min=0)])
    idle_timeout_minutes = IntegerField("Idle timeout (minutes)", [Optional(), NumberRange(min=0)])
    requests_per_minute = IntegerField("Requests per minute", [Optional(), NumberRange(min=0)])
    tokens_per_minute = IntegerField("Model tokens per minute", [Optional(), NumberRange(min=0)])
    max_total_tokens = IntegerField("Model tokens in all", [Optional(), NumberRange(min=0)])
    max_cost_usd = DecimalField("Budget (USD)", [Optional(), NumberRange(min=0)], places=None)
    metadata = TextAreaField("Metadata", [Optional()])

    def validate_metadata(self, field: TextAreaField) -> None:
        """Raise ValidationError unless it is a JSON object."""
        try:
            found = orjson.loads(field.data or "{}")
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise ValidationError('Must be a JSON object, such as {"team": "search"}.')

    def limits(self) -> dict[str, Any]:
        """Return the members of the API's object; what is empty is null."""
        names = ("name", "max_requests", "idle_timeout_minutes", "requests_per_minute", "tokens_per_minute")
        found: dict[str, Any] = {name: self._fields[name].data or None for name in (*names, "max_total_tokens")}
        found["description"] = self.description.data or None
        named = [name.strip() for name in (self.providers.data or "").split(",")]
        found["providers"] = [name for name in named if name] or None
        found["max_cost_usd"] = float(self.max_cost_usd.data) if self.max_cost_usd.data is not None else None
        found["metadata"] = orjson.loads(self.metadata.data) if self.metadata.data else None
        return found


class TokenForm(LimitsForm):
    """What a person says of a new token."""

    project_id = StringField("Project", [InputRequired()])
    duration_minutes = SelectField(
        "Valid for",
        choices=forms.choices([*((str(each), in_words(each)) for each in DURATIONS), (_OTHER, "Other: see beside")]),
        default="15",
        validate_choice=False,
    )
    duration_other = StringField("Other duration", [Optional(), Length(max=20)])

    def minutes(self) -> int | None:
        """Return the wanted lifetime; None when it is none. A number without a unit is in minutes."""
        written = (self.duration_other.data or "").strip().replace(" ", "")
        if not written and self.duration_minutes.data != _OTHER:
            written = self.duration_minutes.data or ""
        if re.fullmatch(r"[0-9]{1,9}", written):
            return int(written) or None
        try:
            return math.ceil(duration_s(written) / 60) or None
        except (ValueError, OverflowError):
            return None


def new() -> Response:
    """Return the form of a new token."""
    return _new_form(TokenForm(duration_minutes="15", project_id=request.args.get("project_id")))


def create() -> Response:
    """200 with the token, shown this once; 400, 403 or 404 with the form and what is wrong."""
    form = TokenForm(request.form)
    is_valid, minutes = form.validate(), form.minutes()
    if minutes is None:
        form.duration_other.errors = [*form.duration_other.errors, "Write 45m, 36h or 10d."]
    if not is_valid or minutes is None:
        return _new_form(form, _REQUIRED, 400)
    body = {name: value for name, value in form.limits().items() if value is not None}
    body |= {"project_id": form.project_id.data, "duration_minutes": minutes, "max_requests": form.max_requests.data}
    try:
        made = frame.api("POST", "/manage/tokens", body=body, headers=forms.once())
    except LlmProxyError as refused:
        forms.show_error(form, refused)
        return _new_form(form, None, refused.status)
    return _shown_once(made, "Token created")


def edit(token_id: str) -> Response:
    """Return the form of a token as it is."""
    token = frame.api("GET", f"/manage/tokens/{token_id}")
    form = LimitsForm(data={**token.data, **{name: _text(token.data[name]) for name in ("metadata", "providers")}})
    return _edit_form(form, token, is_active=token.data["is_active"])


def ask_roll(token_id: str) -> Response:
    """Ask how long the old token lives on."""
    token = frame.api("GET", f"/manage/tokens/{token_id}").data
    impact = confirm.impact([token])
    return frame.page("tokens/roll.html", token=token, impact=impact, overlaps=overlaps(), form_id=uuid.uuid4())


def roll(token_id: str) -> Response:
    """200 with the new token, shown this once."""
    overlap = request.form.get("overlap_minutes", 0, type=int)
    path = f"/manage/tokens/{token_id}/roll"
    made = frame.api("POST", path, body={"overlap_minutes": overlap}, headers=forms.once())
    old = "The old token ends now." if not overlap else f"The old token ends in {in_words(overlap)}."
    return _shown_once(made, "Token rolled", old)


def can_roll() -> bool:
    """Whether the viewer may roll tokens."""
    return frame.may(*ROLL.split())


def update(token_id: str) -> Response:
    """Change what a form names and nothing else; 303 to the token, or the form and what is wrong."""
    token = frame.api("GET", f"/manage/tokens/{token_id}")
    form = LimitsForm(request.form)
    is_active = forms.is_checked("is_active") if "is_active" in request.form else token.data["is_active"]
    if not form.validate():
        return _edit_form(form, token, _REQUIRED, 400, is_active=is_active)
    named = {name: value for name, value in form.limits().items() if name in request.form}
    body = forms.changes({**named, "is_active": is_active}, token.data)
    if body:
        tag = request.form.get("tag") or token.tag
        try:
            frame.api("PATCH", f"/manage/tokens/{token_id}", body=body, headers={"If-Match": tag})
        except LlmProxyError as refused:
            if refused.status == 412:
                return _edit_form(form, token, None, 409, is_active=is_active, is_conflict=True)
            forms.show_error(form, refused)
            return _edit_form(form, token, None, refused.status, is_active=is_active)
    return messages.redirect_with("Token saved.", "tokens_show", token_id=token_id)


def _new_form(form: TokenForm, error: str | None = None, status: int = 200) -> Response:
    return frame.page(
        "tokens/new.html", status, form=form, error=error, projects=_projects(), form_id=uuid.uuid4(), title="New token"
    )


def _edit_form(
    form: LimitsForm,
    token: ApiResponse,
    error: str | None = None,
    status: int = 200,
    *,
    is_active: bool,
    is_conflict: bool = False,
) -> Response:
    saved = [(field.label.text, _text(token.data.get(name))) for name, field in form._fields.items()]
    return frame.page(
        "tokens/edit.html",
        status,
        form=form,
        token=token.data,
        tag=token.tag,
        error=error,
        is_active=is_active,
        saved=saved if is_conflict else None,
    )


def _projects() -> list[dict[str, Any]] | None:
    """Return the projects to choose from; None where the viewer may not list them, and types an id."""
    if frame.may("GET", "/manage/projects"):
        found: list[dict[str, Any]] = frame.api("GET", "/manage/projects").data
        return found
    own = frame.viewer().projects
    return None if own is None else [{"id": each, "name": each, "is_active": True} for each in sorted(own)]


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(value)
    return orjson.dumps(value).decode() if isinstance(value, dict) else str(value)


def _shown_once(made: ApiResponse, title: str, note: str | None = None) -> Response:
    """Return the page with the bearer; it is the response to the form, and stored nowhere."""
    base_url = context.base_url()
    project_id = made.data.get("project_id") or request.form.get("project_id")
    return frame.page(
        "tokens/created.html", token=made.data, title=title, note=note, base_url=base_url, project_id=project_id
    )
