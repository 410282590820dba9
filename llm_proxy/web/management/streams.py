"""/manage/streams: requests that run; /manage/events/tail: events as they come."""

import time
from collections.abc import Iterator

import orjson
from flask import Blueprint, Response

from llm_proxy.errors import ResourceNotFound, TooManyTails
from llm_proxy.events.event import OUTCOMES
from llm_proxy.model.audit_actions import AuditAction
from llm_proxy.operations.tail import MOST_TAILS, EventFilter
from llm_proxy.web import context
from llm_proxy.web.management import parsing, rendering
from llm_proxy.web.management.audited import current
from llm_proxy.web.management.routing import add

_LONGEST_TAIL_S = 86_400
_STREAM = {"X-Accel-Buffering": "no"}


def routes(bp: Blueprint) -> None:
    """Add the routes."""
    add(bp, "/streams", "GET", index)
    add(bp, "/streams/<stream_id>", "DELETE", cut)
    add(bp, "/events/tail", "GET", tail)


def index() -> Response:
    """Return 200 with what runs in all workers of this server. Pages ask each second: it is not audited."""
    with current().attempt(AuditAction.STREAM_LIST, "failed to list streams"):
        found = context.services().streams.list(current().caller.projects)
    return rendering.json_response(found)


def cut(stream_id: str) -> Response:
    """Return 204 when it was cut; 404 when it has ended, or belongs to another project."""
    with current().attempt(
        AuditAction.STREAM_CUT, "failed to cut the stream", details={"stream_id": stream_id}
    ) as attempt:
        streams = context.services().streams
        found = [one for one in streams.list(current().caller.projects) if one["id"] == stream_id]
        if not found:
            raise ResourceNotFound("stream not found", audit={"error_type": "stream not found"})
        attempt.project_id = found[0]["project_id"]
        if not streams.cut(stream_id):
            raise ResourceNotFound("stream not found", audit={"error_type": "stream has ended"})
        attempt.succeeded(token_id=found[0]["token_id"])
    return rendering.no_content()


def tail() -> Response:
    """Return 200 with events as they come, one `data` line of JSON each; ends when the server drains."""
    with current().attempt(AuditAction.EVENTS_TAIL, "failed to read events") as attempt:
        wanted = _filter()
        longest_s = parsing.integer("limit_s", 1, _LONGEST_TAIL_S) or _LONGEST_TAIL_S
        if context.services().tails.open >= MOST_TAILS:
            raise TooManyTails
        attempt.project_id = wanted.project_id
        attempt.succeeded()
    return Response(_lines(wanted, longest_s), content_type="text/event-stream", headers=_STREAM)


def _filter() -> EventFilter:
    outcome = parsing.parameter("outcome")
    if outcome is not None and outcome not in OUTCOMES:
        raise parsing.invalid("outcome")
    caller = current().caller
    project_id = parsing.word("project_id")
    return EventFilter(project_id, parsing.word("token_id"), outcome, caller.projects)


def _lines(wanted: EventFilter, longest_s: int) -> Iterator[bytes]:
    services = context.services()
    ends_s = time.monotonic() + longest_s
    events = services.tails.follow(wanted, lambda: services.phase() == "draining" or time.monotonic() > ends_s)

    def lines() -> Iterator[bytes]:
        yield b"retry: 2000\n\n"
        for shown in events:
            yield b": \n\n" if shown is None else b"data: " + orjson.dumps(shown) + b"\n\n"

    return lines()
