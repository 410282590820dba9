"""Tokens: list, page, revocation and reactivation."""

from collections.abc import Iterable, Iterator
from typing import Any

from flask import Blueprint, request, url_for
from werkzeug.wrappers import Response

from llm_proxy.access.roles import OPERATIONS
from llm_proxy.errors import BadRequest, LlmProxyError
from llm_proxy.runtime.clock import rfc3339, utc_now
from llm_proxy.web.admin import confirm, forms, frame, lists, messages, routing, token_forms, token_outcomes
from llm_proxy.web.admin.routing import Route

COLUMNS = (
    "id", "name", "token", "project_id", "project", "status", "expires_at", "created_at", "created_by", "last_used_at",
    "request_count", "cache_hit_count", "max_requests", "idle_timeout_minutes", "requests_per_minute",
    "tokens_per_minute", "max_total_tokens", "total_tokens", "max_cost_usd", "total_cost_usd",
)  # fmt: skip
_REFUSALS = ("GET", "/manage/tokens/{id}/refusals")
_OUTCOMES = ("GET", "/manage/outcomes")
_BULK = ("POST", "/manage/tokens/revoke")


def routes(bp: Blueprint) -> None:
    """Add the routes."""
    lists.routes(bp, "/tokens", "tokens", _list)
    routing.add_items(
        bp, "tokens", "token_id", new=token_forms.new, create=token_forms.create, show=show, edit=token_forms.edit,
        update=update,
    )  # fmt: skip
    one = "/tokens/<token_id>"
    several = "POST /manage/tokens/revoke"
    routing.add_form(bp, "/tokens/revoke", "tokens_revoke_several", ask_several, revoke_several, several)
    routing.add_form(bp, f"{one}/revoke", "tokens_revoke", ask_revoke, revoke, "DELETE /manage/tokens/{id}")
    routing.add_form(bp, f"{one}/roll", "tokens_roll", token_forms.ask_roll, token_forms.roll, token_forms.ROLL)
    routing.add(
        bp,
        Route("GET", f"{one}.<any(csv, json):form>", "tokens_outcomes", outcomes_file),
        Route("GET", f"{one}/refusals.<any(csv, json):form>", "tokens_refusals", refusals_file),
        Route("POST", f"{one}/reactivate", "tokens_reactivate", reactivate),
    )


def outcomes_file(token_id: str, form: str) -> Response:
    """Return how the token's requests of the last week ended, by hour and code, as a file."""
    frame.api("GET", f"/manage/tokens/{token_id}")
    frame.require(*_OUTCOMES)
    return lists.file(form, f"outcomes-{token_id[:8]}", _outcome_rows(token_id), ("hour", "code", "requests"))


def refusals_file(token_id: str, form: str) -> Response:
    """Return the token's last refusals, one for each code, as a file."""
    frame.api("GET", f"/manage/tokens/{token_id}")
    frame.require(*_REFUSALS)
    columns = ("code", "refused_at", "request_id", "refusals")
    return lists.file(form, f"refusals-{token_id[:8]}", _refusals(token_id) or [], columns)


def show(token_id: str) -> Response:
    """Return the page of a token."""
    token = frame.api("GET", f"/manage/tokens/{token_id}").data
    outcomes = _outcomes(token_id)
    return frame.page(
        "tokens/show.html",
        token=token,
        project=project_names([token["project_id"]]).get(token["project_id"]),
        refusals=_refusals(token_id),
        outcomes=outcomes,
        plot=token_outcomes.plot(outcomes) if outcomes else None,
        kinds=token_outcomes.totals(outcomes or ()),
        meanings=token_outcomes.MEANINGS,
        can_roll=token_forms.can_roll(),
    )


def update(token_id: str) -> Response:
    """303 to the token; 400 or 409 with the form and what is wrong."""
    return revoke(token_id) if forms.method() == "DELETE" else token_forms.update(token_id)


def ask_several() -> Response:
    """Ask before the tokens of the address are revoked."""
    return _ask_several(request.args.getlist("ids"))


def revoke_several() -> Response:
    """303 to the list; 422 without the number typed."""
    ids = list(dict.fromkeys(request.form.getlist("ids")))
    error = confirm.fault(len(ids))
    if error is not None or not ids:
        return _ask_several(ids, error)
    return messages.redirect_with(f"{confirm.counted(_revoke(ids), 'token')} revoked.", "tokens")


def ask_revoke(token_id: str) -> Response:
    """Ask before a token is revoked."""
    token = frame.api("GET", f"/manage/tokens/{token_id}").data
    return confirm.page(
        "Revoke token",
        f"Requests with the token {confirm.isolated(token['name'] or token['id'])} are refused within a second. "
        "It can be reactivated until it expires.",
        confirm.impact([token]),
        action=url_for("admin.tokens_revoke_submit", token_id=token_id),
        button="Revoke token",
        cancel=url_for("admin.tokens_show", token_id=token_id),
    )


def revoke(token_id: str) -> Response:
    """303 to the token."""
    frame.api("DELETE", f"/manage/tokens/{token_id}")
    return messages.redirect_with("Token revoked.", "tokens_show", token_id=token_id)


def reactivate(token_id: str) -> Response:
    """303 to the token, which keeps its limits; 409 page where it has expired."""
    frame.api("PATCH", f"/manage/tokens/{token_id}", body={"is_active": True})
    return messages.redirect_with("Token reactivated. Its limits are as before.", "tokens_show", token_id=token_id)


def _list(form: str | None) -> Response:
    wanted = lists.query("project_id", "status", "search")
    if form is not None:
        return lists.stream(form, "tokens", _named(lists.parts("/manage/tokens", wanted)), COLUMNS)
    found = lists.read("/manage/tokens", {**wanted, **lists.place()})
    asked = [row["project_id"] for row in found.data] + [wanted["project_id"] or ""]
    return frame.page(
        "tokens/list.html",
        tokens=found.data,
        projects=project_names(asked),
        paging=lists.paging(found),
        sort=wanted["sort"] or "-created_at",
        is_filtered=any(wanted[name] for name in ("project_id", "status", "search")),
    )


def _named(parts: Iterable[lists.Rows]) -> Iterator[lists.Rows]:
    """Yield tokens with the names of their projects."""
    known = dict[str, str]()
    for rows in parts:
        known |= project_names({row["project_id"] for row in rows} - known.keys())
        yield [{**row, "project": known.get(row["project_id"])} for row in rows]


def project_names(ids: Iterable[str]) -> dict[str, str]:
    """Return names by id, of the projects that the viewer may see, asked for in as few calls as the API allows."""
    wanted = sorted({each for each in ids if each})
    if not wanted or not frame.may("GET", "/manage/projects"):
        return {}
    if len(wanted) > lists.LARGEST:
        return {row["id"]: row["name"] for row in frame.api("GET", "/manage/projects").data}
    rows = frame.api("GET", "/manage/projects", query={"ids": ",".join(wanted)}).data
    return {row["id"]: row["name"] for row in rows}


def _ask_several(ids: list[str], error: str | None = None) -> Response:
    if not 1 <= len(ids) <= lists.LARGEST:
        raise BadRequest(f"select 1 to {lists.LARGEST} tokens first", param="ids")
    tokens = frame.api("GET", "/manage/tokens", query={"ids": ",".join(ids)}).data
    return confirm.page(
        "Revoke tokens",
        "Requests with these tokens are refused within a second. They can be reactivated until they expire.",
        confirm.impact(tokens),
        action=url_for("admin.tokens_revoke_several_submit"),
        button="Revoke tokens",
        cancel=url_for("admin.tokens"),
        count=len(tokens),
        hidden=[("ids", token["id"]) for token in tokens],
        error=error,
    )


def _revoke(ids: list[str]) -> int:
    if _BULK in OPERATIONS:
        found = frame.api("POST", "/manage/tokens/revoke", body={"ids": ids}).data
        return int(found["revoked_count"])
    for token_id in ids:
        frame.api("DELETE", f"/manage/tokens/{token_id}")
    return len(ids)


def _refusals(token_id: str) -> list[dict[str, Any]] | None:
    """Return the last refusals; None where they are not to be had."""
    if _REFUSALS not in OPERATIONS or not frame.may(*_REFUSALS):
        return None
    found = frame.api("GET", f"/manage/tokens/{token_id}/refusals").data
    rows: list[dict[str, Any]] = found["data"] if isinstance(found, dict) else found
    return rows


def _outcomes(token_id: str) -> list[dict[str, Any]] | None:
    """Return how many requests of the last week ended how, by hour; None where that is not to be had."""
    if _OUTCOMES not in OPERATIONS or not frame.may(*_OUTCOMES):
        return None
    try:
        return _outcome_rows(token_id)
    except LlmProxyError:
        return None


def _outcome_rows(token_id: str) -> list[dict[str, Any]]:
    query = {"token_id": token_id, "group_by": "hour,code", "from": rfc3339(token_outcomes.first_hour(utc_now()))}
    rows: list[dict[str, Any]] = frame.api("GET", "/manage/outcomes", query=query).data["data"]
    return rows
