"""Events as they come. The page's script reads `/events/stream`; without script there is nothing to follow."""

from flask import Blueprint, Response, request

from llm_proxy.events.event import OUTCOMES
from llm_proxy.web.admin import frame, routing
from llm_proxy.web.admin.routing import Route

_LIMIT_S = 60  # the browser comes back, and shows its session again
_FILTERS = ("project_id", "token_id", "outcome")


def routes(bp: Blueprint) -> None:
    """Add the routes."""
    routing.add(
        bp,
        Route("GET", "/events", "events", events, "GET /manage/events/tail"),
        Route("GET", "/events/stream", "events_stream", stream),
    )


def events() -> Response:
    """Return the page; its filters are in the address."""
    return frame.page("events.html", outcomes=OUTCOMES, is_filtered=any(map(request.args.get, _FILTERS)))


def stream() -> Response:
    """Return events as they come, as the management API sends them."""
    query = {name: request.args.get(name) for name in _FILTERS} | {"limit_s": _LIMIT_S}
    lines = frame.stream("/manage/events/tail", query=query)
    return Response(lines, content_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
