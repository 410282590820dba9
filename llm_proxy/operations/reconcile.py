"""Do the numbers agree? What tokens were charged, what usage rows sum up to, and the events of the same days."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, RowMapping, func, select

from llm_proxy.accounting.reconcile import Line
from llm_proxy.db.models import ProjectRow, TokenRow, UsageRow
from llm_proxy.db.session import read_transaction
from llm_proxy.runtime.clock import parse_rfc3339, rfc3339_ms

_USAGE: Any = UsageRow.__table__.c
_TOKENS: Any = TokenRow.__table__.c
_PROJECTS: Any = ProjectRow.__table__.c
_SUMMED = (
    func.sum(_USAGE.requests),
    func.sum(_USAGE.prompt_tokens + _USAGE.completion_tokens),
    func.coalesce(func.sum(_USAGE.cost_nano_usd), 0),
)
_NOT_CHARGED = frozenset(("connect_error",))  # the unit came back
Counts = tuple[int, int, int]  # requests, model tokens, and money in 10⁻⁹ USD
_NOTHING: Counts = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Held:
    """A token that a worker of another machine holds, or held when it was lost with its ledger.

    If it was lost, the count is not exact, by an unknown amount: of a limited token its slice counts as
    spent; of another, what it admitted after `since` is missing, half a second's at most.
    """

    token_id: str
    since: datetime
    is_limited: bool

    def to_json(self) -> dict[str, Any]:
        """For people and programs."""
        effect = "counts what was not used" if self.is_limited else "lacks what was admitted after that"
        since = rfc3339_ms(round(self.since.timestamp() * 1000) * 1_000_000)
        return {"token_id": self.token_id, "last_heard_of": since, "counter": effect}


@dataclass(frozen=True, slots=True)
class Difference:
    """Two counts of the same thing. `what`: requests, model_tokens, cost_nano_usd or events.

    `provider` is None where the counts are of all providers.
    """

    token_id: str
    what: str
    counter: int
    usage: int
    provider: str | None = None

    def to_json(self) -> dict[str, Any]:
        """For people and programs."""
        other = "events" if self.what == "events" else "counter"
        return {
            "token_id": self.token_id,
            "provider": self.provider,
            "what": self.what,
            other: self.counter,
            "usage": self.usage,
            "difference": self.counter - self.usage,
        }


@dataclass(frozen=True, slots=True)
class Report:
    """What was compared. `unknown_tokens`: those in usage that have no row any more.

    `providers`: the period's sums by provider, empty for rows from before it was recorded.
    `outlived`: tokens that are older than the usage that is kept, so that their counters cannot be compared with it.
    """

    tokens: int
    events: int | None
    unknown_tokens: int
    differences: tuple[Difference, ...]
    held_elsewhere: tuple[Held, ...] = ()
    outlived: int = 0
    providers: Mapping[str, Counts] = field(default_factory=dict)


def token_rows(engine: Engine) -> list[RowMapping]:
    """All tokens, with what counts of them, and whether their project makes events."""
    columns = ("id", "created_at", "request_count", "max_requests", "leases", "total_tokens", "total_cost_nano_usd")
    query = select(*(_TOKENS[name] for name in columns), _PROJECTS.event_privacy).join_from(
        TokenRow.__table__, ProjectRow.__table__, _PROJECTS.id == _TOKENS.project_id
    )
    with read_transaction(engine) as connection:
        return list(connection.execute(query).mappings().all())


def usage_sums(engine: Engine) -> dict[str, Counts]:
    """Return requests, model tokens and money (10⁻⁹ USD) of all usage, by token."""
    query = select(_USAGE.token_id, *_SUMMED).group_by(_USAGE.token_id)
    with read_transaction(engine) as connection:
        return {row[0]: (int(row[1]), int(row[2]), int(row[3])) for row in connection.execute(query)}


def period_sums(engine: Engine, since: date, until: date) -> dict[tuple[str, str], Counts]:
    """Sum usage by token and provider; both days included."""
    keys = (_USAGE.token_id, _USAGE.provider)
    query = select(*keys, *_SUMMED).where(_USAGE.day >= since, _USAGE.day <= until).group_by(*keys)
    with read_transaction(engine) as connection:
        return {(row[0], row[1]): (int(row[2]), int(row[3]), int(row[4])) for row in connection.execute(query)}


def event_counts(path: Path, since: date, until: date) -> Counter[tuple[str, str]]:
    """Charged exchanges by token and provider in a file of events (FILE_EVENT_LOG, or the dispatcher's).

    The provider is empty where the line names none. Raises OSError.
    """
    found: Counter[tuple[str, str]] = Counter()
    for about in _lines(path):
        metadata = about.get("metadata")
        more = metadata if isinstance(metadata, dict) else {}
        token_id = about.get("token_id") or about.get("TokenID") or more.get("token_id")
        outcome = about.get("outcome") or about.get("Outcome") or more.get("outcome")
        day = _day(about.get("timestamp") or about.get("Timestamp"))
        provider = about.get("provider") or about.get("Provider") or more.get("provider")
        if isinstance(token_id, str) and outcome not in _NOT_CHARGED and day is not None and since <= day <= until:
            found[token_id, provider if isinstance(provider, str) else ""] += 1
    return found


def compare(
    tokens: Iterable[Mapping[str, Any] | RowMapping],
    charged: Iterable[Line],
    all_usage: Mapping[str, Counts],
    *,
    period: Mapping[tuple[str, str], Counts],
    events: Mapping[tuple[str, str], int] | None = None,
    kept_since: date | None = None,
) -> Report:
    """Compare the counters of every token that was used in the period, and usage with events.

    Counters know no period: they are compared with all usage of their token.

    Args:
        tokens: From `token_rows`.
        charged: Units by token.
        all_usage: From `usage_sums`.
        period: From `period_sums`.
        events: From `event_counts`, for the period; None: not asked.
        kept_since: First day whose usage is kept for sure; None: all is.
    """
    lines = list(charged)
    rows = {row["id"]: row for row in tokens}
    used = {token_id for token_id, _ in period}
    compared = {token_id for token_id in rows if token_id in used or _was_used_unseen(rows[token_id], all_usage)}
    outlived = {token_id for token_id in compared if kept_since and rows[token_id]["created_at"].date() < kept_since}
    units = {line.token_id: line.charged for line in lines}
    differences = list[Difference]()
    for token_id in sorted(compared - outlived):
        differences += _counter_differences(rows[token_id], units, all_usage.get(token_id, _NOTHING))
    if events is not None:
        silent = {token_id for token_id, row in rows.items() if row["event_privacy"] == "off"}  # these make no events
        differences += [found for found in _event_differences(period, events) if found.token_id not in silent]
    return Report(
        tokens=len(compared - outlived),
        events=None if events is None else sum(events.values()),
        unknown_tokens=len(used - rows.keys()),
        differences=tuple(differences),
        held_elsewhere=_held(lines),
        outlived=len(outlived),
        providers=_by_provider(period),
    )


def _counter_differences(
    row: Mapping[str, Any] | RowMapping, units: Mapping[str, int], usage: Counts
) -> Iterator[Difference]:
    """Compare the counters of a token with the usage that is recorded of it."""
    counters = (units.get(row["id"], row["request_count"]), row["total_tokens"], row["total_cost_nano_usd"])
    for what, counter, used in zip(("requests", "model_tokens", "cost_nano_usd"), counters, usage, strict=True):
        if counter != used:
            yield Difference(row["id"], what, counter, used)


def _held(lines: Iterable[Line]) -> tuple[Held, ...]:
    """Return the tokens that a worker holds whose ledger is not here."""
    return tuple(
        Held(line.token_id, datetime.fromtimestamp(line.silent_s, UTC), line.max_requests is not None)
        for line in lines
        if line.silent_s is not None
    )


def _event_differences(
    period: Mapping[tuple[str, str], Counts], events: Mapping[tuple[str, str], int]
) -> list[Difference]:
    """Compare usage with events by token and provider, by token alone where one side does not name the provider."""
    keys = {*period, *events}
    unnamed = {token_id for token_id, provider in keys if not provider}
    seen, counted = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for key in keys:
        place = (key[0], "") if key[0] in unnamed else key
        seen[place] += events.get(key, 0)
        counted[place] += period.get(key, _NOTHING)[0]
    return [
        Difference(token_id, "events", seen[token_id, provider], counted[token_id, provider], provider or None)
        for token_id, provider in sorted(seen)
        if seen[token_id, provider] != counted[token_id, provider]
    ]


def _by_provider(period: Mapping[tuple[str, str], Counts]) -> dict[str, Counts]:
    found: dict[str, Counts] = {}
    for (_, provider), (requests, model_tokens, cost) in sorted(period.items(), key=lambda item: item[0][1]):
        before = found.get(provider, _NOTHING)
        found[provider] = (before[0] + requests, before[1] + model_tokens, before[2] + cost)
    return found


def _was_used_unseen(row: Mapping[str, Any] | RowMapping, usage: Mapping[str, Any]) -> bool:
    """Return whether a token has counts and no usage at all."""
    return bool(row["request_count"] or row["total_tokens"]) and row["id"] not in usage


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as lines:
        for line in lines:
            try:
                about = json.loads(line)
            except ValueError:
                continue  # the last line of a writer that was killed
            if isinstance(about, dict):
                yield about


def _day(text: Any) -> date | None:
    try:
        return parse_rfc3339(str(text)).date()
    except ValueError:
        return None
