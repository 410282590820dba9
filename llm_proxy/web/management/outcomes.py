"""/manage/outcomes, /manage/tokens/{id}/refusals, /manage/traffic and /manage/stats: how requests ended, and totals."""

from datetime import UTC, datetime, timedelta

from flask import Blueprint, Response

from llm_proxy.errors import BadRequest
from llm_proxy.model.audit_actions import AuditAction
from llm_proxy.operations.hourly import HourFilter
from llm_proxy.operations.outcome_log import GROUPS, OutcomeFilter
from llm_proxy.operations.traffic_log import SHOWN
from llm_proxy.runtime.clock import utc_now
from llm_proxy.web import context
from llm_proxy.web.context import services
from llm_proxy.web.management import parsing, rendering
from llm_proxy.web.management.audited import current
from llm_proxy.web.management.routing import add
from llm_proxy.web.management.usage import as_csv

_SPAN = timedelta(hours=23)  # with the present hour, a day
_LONGEST = timedelta(days=366)
_MEMBERS = {"project": "project_id", "token": "token_id", "code": "code", "hour": "hour"}


def routes(bp: Blueprint) -> None:
    """Add the routes."""
    add(bp, "/outcomes", "GET", index)
    add(bp, "/tokens/<token_id>/refusals", "GET", refusals)
    add(bp, "/traffic", "GET", traffic)
    add(bp, "/stats", "GET", stats)


def index() -> Response:
    """Return 200 with numbers of requests as JSON or CSV; 400 names the parameter."""
    with current().attempt(AuditAction.OUTCOME_LIST, "failed to read outcomes"):
        groups, form, wanted = parsing.groups(GROUPS), parsing.form(), _filter()
        rows, is_more = context.services().outcome_log.sums(wanted, groups)
    if form == "csv":
        columns = [*(_MEMBERS[name] for name in groups), "requests"]
        return Response(as_csv(rows, columns), content_type="text/csv; charset=utf-8")
    return rendering.json_response({"data": rows, "is_more": is_more})


def refusals(token_id: str) -> Response:
    """Return 200 with the last refusal of the token by code, the newest first; 404."""
    with current().attempt(AuditAction.TOKEN_REFUSALS, "failed to read refusals", details={"token_id": token_id}):
        token = services().tokens.get(token_id, current().caller.projects)
        found = context.services().outcome_log.refusals(token.id)
    return rendering.json_response(found)


def traffic() -> Response:
    """Return 200 with traffic by hour or day as JSON or CSV; 400 names the parameter."""
    with current().attempt(AuditAction.TRAFFIC_READ, "failed to read traffic"):
        interval, form = _interval(), parsing.form()
        first, last = _span(longest=_LONGEST)
        wanted = HourFilter(first, last, parsing.word("project_id"), within=current().caller.projects)
        log = context.services().traffic_log
        rows = log.by_day(wanted) if interval == "day" else log.by_hour(wanted)
    if form == "csv":
        return Response(as_csv(rows, (interval, *SHOWN)), content_type="text/csv; charset=utf-8")
    return rendering.json_response({"data": rows})


def stats() -> Response:
    """Return 200 with totals of what the caller may see."""
    with current().attempt(AuditAction.STATS_READ, "failed to read totals"):
        found = context.services().statistics.totals(current().caller.projects)
    return rendering.json_response(found)


def _filter() -> OutcomeFilter:
    """Read the filters; an instant stands for the hour that it is in."""
    first, last = _span()
    named = {name: parsing.word(name) for name in ("project_id", "token_id", "code")}
    return OutcomeFilter(first, last, within=current().caller.projects, **named)


def _span(longest: timedelta | None = None) -> tuple[datetime, datetime]:
    """Return the first and the last hour that are asked for. Raises BadRequest."""
    since, until = parsing.instant("from"), parsing.instant("to", is_end=True)
    last = until or utc_now()
    first = since or max(last, datetime.min.replace(tzinfo=UTC) + _SPAN) - _SPAN
    if first > last:
        raise BadRequest("from is after to", param="from")
    if longest is not None and last - first > longest:
        raise BadRequest(f"from is more than {longest.days} days before to", param="from")
    return _hour(first), _hour(last)


def _interval() -> str:
    interval = parsing.parameter("group_by") or "hour"
    if interval not in ("hour", "day"):
        raise BadRequest("group_by must be one of hour, day", param="group_by")
    return interval


def _hour(instant: datetime) -> datetime:
    return instant.replace(minute=0, second=0, microsecond=0)
