"""Confirmation pages: what a destructive step will hit, and above twenty things their number typed in."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from flask import Response, request

from llm_proxy.access.roles import OPERATIONS
from llm_proxy.runtime.clock import parse_rfc3339, utc_now
from llm_proxy.web.admin import frame

MOST_UNTYPED = 20
COUNT = "confirm_count"


def page(
    title: str,
    text: str,
    impact: str,
    *,
    action: str,
    cancel: str,
    button: str | None = None,
    count: int = 1,
    phrase: str | None = None,
    hidden: Iterable[tuple[str, str]] = (),
    option: tuple[str, str] | None = None,
    error: str | None = None,
) -> Response:
    """Return the page that asks.

    Args:
        button: Its text; None: the title.
        count: How many things are hit; above twenty the number must be typed.
        phrase: What must be typed in place of the number.
        hidden: Further fields of the form.
        option: Name and label of a check box.
    """
    return frame.page(
        "confirm.html",
        200 if error is None else 422,
        title=title,
        text=text,
        impact=impact,
        action=action,
        button=button or title,
        cancel=cancel,
        typed=typed(count, phrase),
        count_name=COUNT,
        hidden=list(hidden),
        option=option,
        error=error,
    )


def fault(count: int = 1, phrase: str | None = None) -> str | None:
    """Return what is wrong with what was typed for `count` things, or a phrase; None when nothing is."""
    wanted = typed(count, phrase)
    given = request.form.get(COUNT, "").strip().replace(",", "")
    return None if wanted is None or given.lower() == wanted else f"Type {wanted} to confirm."


def is_answered() -> bool:
    """Whether the form comes from a page that asked for something to be typed."""
    return COUNT in request.form


def typed(count: int, phrase: str | None = None) -> str | None:
    """Return what must be typed for `count` things, or a phrase; None for no more than twenty."""
    return phrase or (str(count) if count > MOST_UNTYPED else None)


def impact(tokens: Sequence[Mapping[str, Any]]) -> str:
    """Return a line on what revoking these tokens hits: how many, open streams, the last use."""
    working = sum(token["status"] == "active" for token in tokens)
    parts = [counted(len(tokens), "token"), f"{working} active", *open_streams({token["id"] for token in tokens})]
    return ", ".join([*parts, last_used(max((token["last_used_at"] or "" for token in tokens), default=""))])


def open_streams(token_ids: set[str] | None = None, project_id: str | None = None) -> list[str]:
    """Return how many requests run now, as a list that is empty where that is not known."""
    if ("GET", "/manage/streams") not in OPERATIONS or not frame.may("GET", "/manage/streams"):
        return []
    streams = frame.api("GET", "/manage/streams").data
    rows = streams["data"] if isinstance(streams, dict) else streams
    found = [
        row
        for row in rows
        if (token_ids is None or row["token_id"] in token_ids)
        and (project_id is None or row["project_id"] == project_id)
    ]
    return [f"{counted(len(found), 'stream')} open now"]


def ago(at: str | datetime, now: datetime | None = None) -> str:
    """Return how long ago an instant was, in its largest unit."""
    instant = parse_rfc3339(at) if isinstance(at, str) else at
    seconds = max(0, int(((now or utc_now()) - instant).total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit} ago"
    return f"{seconds} s ago"


def last_used(at: str | None) -> str:
    """Return when something was last used, in words."""
    return f"last used {ago(at)}" if at else "never used"


def counted(number: int, thing: str) -> str:
    """Return a number of things, such as `1 token` or `47 tokens`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def isolated(name: str) -> str:
    """Return a name that keeps its own direction of writing inside of a sentence (Unicode Standard Annex 9)."""
    return f"\u2068{name}\u2069"
