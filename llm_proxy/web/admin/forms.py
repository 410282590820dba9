"""Forms: WTForms' fields, filled from the API's objects, and errors of the API shown at their field."""

import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from flask import request
from wtforms import Form
from wtforms.fields import choices as wtforms_choices

from llm_proxy.errors import BadRequest, LlmProxyError

_CHOICE: Any = getattr(wtforms_choices, "SelectChoice", None)  # WTForms 3.3; pairs go with 3.4


def choices(pairs: Iterable[tuple[str, str]]) -> list[Any]:
    """Return values and labels as the installed WTForms takes them."""
    return [(value, label) if _CHOICE is None else _CHOICE(value, label) for value, label in pairs]


def show_error(form: Form, refused: LlmProxyError) -> None:
    """Attach a refusal to the field that it names, or to the form as a whole."""
    target = form._fields.get(refused.param or "")
    if target is None:
        form.form_errors.append(refused.message)
    else:
        target.errors = [*target.errors, refused.message]


def changes(values: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members that differ: what a PATCH must carry, and nothing that another person may have changed."""
    return {name: value for name, value in values.items() if before.get(name) != value}


def method() -> str:
    """Return what a form asks of its item: `PUT` or `DELETE`, by its field `_method`. Raises BadRequest."""
    if request.method in ("PUT", "DELETE"):
        return request.method
    wanted = request.form.get("_method", "")
    if wanted not in ("PUT", "DELETE"):
        raise BadRequest("_method must be PUT or DELETE", param="_method")
    return wanted


def is_checked(name: str) -> bool:
    """Whether a check box is ticked; the last value wins, because a hidden `false` comes before it."""
    return request.form.getlist(name)[-1:] in (["true"], ["on"], ["y"], ["1"])


def once() -> dict[str, str]:
    """Return the field by which the API makes nothing a second time when a form is sent again."""
    return {"Idempotency-Key": request.form.get("form_id") or str(uuid.uuid4())}
