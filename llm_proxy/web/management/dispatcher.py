"""/manage/dispatcher: the event bus, and the events that a dispatcher gave up."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from flask import Blueprint, Response

from llm_proxy.errors import BadRequest, BusUnreachable, Conflict, ResourceNotFound
from llm_proxy.events.dead_letters import REASONS, DeadLetter, DeadLetters
from llm_proxy.model.audit_actions import AuditAction
from llm_proxy.operations.bus_state import BusUnavailable, NoBus, facts_of
from llm_proxy.web import context
from llm_proxy.web.management import parsing, rendering
from llm_proxy.web.management.audited import current
from llm_proxy.web.management.routing import add

_ID = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")
_MOST = 1000
_BASE = "/dispatcher/dead-letters"


def routes(bp: Blueprint) -> None:
    """Add the routes."""
    add(bp, "/dispatcher", "GET", state)
    add(bp, _BASE, "GET", index)
    add(bp, f"{_BASE}/<letter_id>/replay", "POST", replay)
    add(bp, f"{_BASE}/<letter_id>", "DELETE", drop)


def state() -> Response:
    """Return 200 with length, lag and consumers of the bus; 503 while Redis is unavailable."""
    with current().attempt(AuditAction.DISPATCHER_READ, "failed to read the event bus"):
        try:
            found = context.services().bus_state.state()
        except BusUnavailable as error:
            raise BusUnreachable from error
    return rendering.json_response(found)


def index() -> Response:
    """Return 200 with dead letters, the oldest first, without their events."""
    with (
        current().attempt(AuditAction.DEAD_LETTER_LIST, "failed to list dead letters") as attempt,
        _letters() as letters,
    ):
        reason = parsing.parameter("reason")
        if reason is not None and reason not in REASONS:
            raise parsing.invalid("reason")
        limit = parsing.integer("limit", 1, _MOST) or 100
        found = [facts_of(letter) for letter in letters.find(reason=reason, limit=limit)]
        attempt.succeeded(dead_letter_count=len(found))
    return rendering.json_response(found)


def replay(letter_id: str) -> Response:
    """Return 204 when it is back on the bus; 404."""
    return _act(AuditAction.DEAD_LETTER_REPLAY, letter_id, "failed to replay the dead letter", is_replay=True)


def drop(letter_id: str) -> Response:
    """Return 204 when it is deleted for good; 404."""
    return _act(AuditAction.DEAD_LETTER_DROP, letter_id, "failed to drop the dead letter", is_replay=False)


def _act(action: AuditAction, letter_id: str, fault: str, *, is_replay: bool) -> Response:
    with current().attempt(action, fault, details={"dead_letter_id": letter_id}) as attempt, _letters() as letters:
        letter = _found(letters, letter_id)
        (letters.replay if is_replay else letters.drop)(letter)
        attempt.succeeded(reason=letter.reason)
    return rendering.no_content()


@contextmanager
def _letters() -> Iterator[DeadLetters]:
    try:
        with context.services().bus_state.letters() as letters:
            yield letters
    except NoBus as error:
        raise Conflict("the in-memory bus has no dead letters", code="no_event_bus") from error
    except BusUnavailable as error:
        raise BusUnreachable from error


def _found(letters: DeadLetters, letter_id: str) -> DeadLetter:
    if not _ID.fullmatch(letter_id):
        raise BadRequest("invalid dead letter id", param="id")
    letter = letters.get(letter_id)
    if letter is None:
        raise ResourceNotFound("dead letter not found", audit={"error_type": "dead letter not found"})
    return letter
