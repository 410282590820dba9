"""RFC 9111 for a shared cache, as functions of plain values: what may be stored, how long, for which requests."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from llm_proxy.cache import directives as parse
from llm_proxy.cache.directives import NONE, Directives
from llm_proxy.cache.entry import Entry, Pairs
from llm_proxy.cache.key import DEFAULT_VARY, vary_names
from llm_proxy.cache.targeted import response_directives

Fields = Sequence[tuple[str, str]]

HEURISTIC_STATUSES: Final = frozenset((200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501))  # RFC 9110 §15.1
OPTED_IN_STATUSES: Final = frozenset((200, 203))  # where the lifetime is the proxy's or the client's wish
_KNOWN_STATUSES: Final = HEURISTIC_STATUSES | frozenset(
    (302, 303, 307, 400, 401, 403, 409, 421, 451, 500, 502, 503, 504)
)
_HEURISTIC_PART, _HEURISTIC_MOST_S = 0.1, 86_400.0  # RFC 9111 §4.2.2
_STALE_STATUSES: Final = frozenset((500, 502, 503, 504))  # RFC 5861 §4

_HOP_BY_HOP: Final = frozenset(
    ("connection", "proxy-connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "http2-settings")
) | frozenset(("proxy-authenticate", "proxy-authorization", "proxy-authentication-info"))
_OF_ONE_EXCHANGE: Final = frozenset(
    ("set-cookie", "age", "cache-status", "x-accel-buffering", "x-request-id", "x-correlation-id")
) | frozenset(("x-upstream-request-id", "x-llm-proxy-remote-duration", "x-llm-proxy-remote-duration-ms"))
NEVER_STORED: Final = _HOP_BY_HOP | _OF_ONE_EXCHANGE  # RFC 9111 §3.1; names in lower case
_NEVER_STORED_BEGIN: Final = ("access-control-", "x-proxy", "x-upstream-request-", "x-cache-debug")
_NOT_FRESHENED: Final = frozenset(("content-length", "content-encoding", "content-md5", "content-range", "etag"))


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator decides.

    Attributes:
        default_ttl_s: Lifetime of `public` answers that name none; 0 = they have none.
        most_bytes: Largest stored body.
        stores_streams: Whether finished event streams of opted-in requests are stored.
        keeps_date: Send the stored Date, as RFC 9110 §6.6.1 has it, instead of a fresh one.
    """

    default_ttl_s: float = 300.0
    most_bytes: int = 1 << 20
    stores_streams: bool = False
    keeps_date: bool = False


@dataclass(frozen=True, slots=True)
class RequestDirectives:
    """What a request says of caches.

    Attributes:
        no_store: Neither look up nor store.
        no_cache: Ask before serving.
        max_age_s: Oldest response that will do; None: any.
        min_fresh_s: How long it must stay fresh.
        max_stale_s: How long it may have been stale; None: not at all.
        only_if_cached: Rather 504 than the provider.
        forced_s: Lifetime for responses that name none (`public` with a lifetime); 0: no such wish.
        lifetime: The same as it stands in keys: `smax=N` or `max=N`; empty without.
    """

    no_store: bool = False
    no_cache: bool = False
    max_age_s: int | None = None
    min_fresh_s: int = 0
    max_stale_s: int | None = None
    only_if_cached: bool = False
    forced_s: int = 0
    lifetime: str = ""


NO_DIRECTIVES: Final = RequestDirectives()


def request_directives(cache_control: Sequence[str], pragma: Sequence[str] = ()) -> RequestDirectives:
    """Return a request's directives (RFC 9111 §5.2.1); Pragma counts where there is no Cache-Control (§5.4)."""
    if not cache_control:
        if pragma and "no-cache" in parse.directives(pragma):
            return RequestDirectives(no_cache=True)
        return NO_DIRECTIVES
    found = parse.directives(cache_control)
    forced_s, lifetime = _forced(found)
    stale = parse.MOST_S if found.get("max-stale") == (None,) else parse.seconds(found, "max-stale")
    return RequestDirectives(
        no_store="no-store" in found,
        no_cache="no-cache" in found,
        max_age_s=parse.seconds(found, "max-age"),
        min_fresh_s=parse.seconds(found, "min-fresh") or 0,
        max_stale_s=stale,
        only_if_cached="only-if-cached" in found,
        forced_s=forced_s,
        lifetime=lifetime,
    )


def _forced(found: Directives) -> tuple[int, str]:
    """Return the forced directives: `public` and s-maxage, then max-age."""
    if "public" not in found:
        return 0, ""
    for name, mark in (("s-maxage", "smax"), ("max-age", "max")):
        lifetime_s = parse.seconds(found, name)
        if lifetime_s:
            return lifetime_s, f"{mark}={lifetime_s}"
    return 0, ""


# -- storing ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Refused:
    """A response that is not stored, and why: the text of X-CACHE-DEBUG, never a secret."""

    reason: str


@dataclass(frozen=True, slots=True)
class ReceivedResponse:
    """A response's head, and the request's part in what becomes of it. Times in seconds since the epoch.

    `is_authorized`: the request had Authorization (RFC 9111 §3.5). `is_opted_in`: it is a POST that asked for it.
    """

    status: int
    reason: str
    fields: Fields
    requested_at: float
    received_at: float
    directives: RequestDirectives = NO_DIRECTIVES
    is_authorized: bool = True
    is_opted_in: bool = False


def storable(received: ReceivedResponse, rules: Rules) -> Entry | Refused:
    """Return the entry of a response whose body is whole (without key, target, number), or why it is not stored."""
    found, is_targeted = response_directives(received.fields)
    reason = _forbidden(received, found, rules)
    if reason is not None:
        return Refused(reason)
    if received.is_authorized and not received.directives.forced_s and not _may_share(found):
        return Refused("authorization")
    vary = vary_names(parse.values(received.fields, "vary"))
    if vary is None or (received.is_authorized and "AUTHORIZATION" in vary):
        return Refused("vary-matches-nothing")
    date = _date(received)
    lifetime_s, is_forced = _lifetime(received, found, date, rules, is_targeted=is_targeted)
    if lifetime_s is None:
        return Refused("ttl-zero-no-lifetime")
    if not is_forced and received.is_authorized and not _may_share(found):
        return Refused("authorization")
    etag = last_modified = None
    if not received.is_opted_in:  # a POST is never validated: If-None-Match would make it fail (RFC 9110 §13.1.2)
        etag = next(iter(parse.values(received.fields, "etag")), None)
        last_modified = next(iter(parse.values(received.fields, "last-modified")), None)
    is_validated_always = "no-cache" in found
    if (lifetime_s <= 0 or is_validated_always) and etag is None and last_modified is None:
        return Refused("ttl-zero-no-validator")
    while_revalidating_s = parse.seconds(found, "stale-while-revalidate") or 0
    if_error_s = parse.seconds(found, "stale-if-error") or 0
    return Entry(
        key="",
        target="",
        vary=vary or DEFAULT_VARY,
        status=received.status,
        reason=received.reason,
        fields=stored_fields(received.fields, found, received.directives.forced_s if is_forced else 0, rules),
        requested_at=received.requested_at,
        received_at=received.received_at,
        initial_age_s=_initial_age(received, date, is_forced=is_forced),
        lifetime_s=lifetime_s,
        etag=etag,
        last_modified=last_modified,
        is_validated_always=is_validated_always,
        may_be_stale=_may_be_stale(found, bool(while_revalidating_s or if_error_s)),
        while_revalidating_s=while_revalidating_s,
        if_error_s=if_error_s,
        is_stream=is_event_stream(received.fields),
        is_forced=is_forced,
    )


def _forbidden(received: ReceivedResponse, found: Directives, rules: Rules) -> str | None:
    status = received.status
    if not 200 <= status < 1000 or status in (206, 304) or (received.is_opted_in and status not in OPTED_IN_STATUSES):
        return "status-not-cacheable"
    if "must-understand" in found and status not in _KNOWN_STATUSES:
        return "status-not-understood"
    if "no-store" in found and "must-understand" not in found:  # beside a status that is known: RFC 9111 §5.2.2.3
        return "ttl-zero-no-store"
    if "private" in found:
        return "ttl-zero-private"
    if "no-store" in parse.directives(parse.values(received.fields, "surrogate-control")):
        return "ttl-zero-no-store"  # a word to caches like this one; the rest of that field is not standardized
    if is_event_stream(received.fields) and not (rules.stores_streams and received.directives.forced_s):
        return "streaming-response"
    length = next(iter(parse.values(received.fields, "content-length")), "")
    return "object-too-large" if length.isdigit() and int(length[:18]) > rules.most_bytes else None


def is_event_stream(fields: Fields) -> bool:
    """Return whether the fields announce an event stream."""
    return any("text/event-stream" in value.lower() for value in parse.values(fields, "content-type"))


def _may_share(found: Directives) -> bool:
    """RFC 9111 §3.5."""
    return "public" in found or "s-maxage" in found or "must-revalidate" in found


def _may_be_stale(found: Directives, is_allowed: bool) -> bool:
    """RFC 9111 §4.2.4. An s-maxage forbids it too, unless the same response allows it in so many words (RFC 5861)."""
    if any(name in found for name in ("no-cache", "must-revalidate", "proxy-revalidate")):
        return False
    return "s-maxage" not in found or is_allowed


def _lifetime(
    received: ReceivedResponse, found: Directives, date: float, rules: Rules, *, is_targeted: bool = False
) -> tuple[float | None, bool]:
    """Freshness lifetime (RFC 9111 §4.2.1), and whether it is the client's wish; None: there is none."""
    explicit = _explicit_lifetime(received, found, date, is_targeted=is_targeted)
    if explicit is not None:
        return explicit, False
    if (
        "public" in found
        and received.status in OPTED_IN_STATUSES
        and rules.default_ttl_s > 0
        and "no-cache" not in found
    ):
        return rules.default_ttl_s, False
    may_force = received.directives.forced_s and received.status in OPTED_IN_STATUSES and "no-cache" not in found
    if may_force:
        return float(received.directives.forced_s), True
    if received.is_opted_in:
        return None, False
    return _heuristic(received, found, date), False


def _explicit_lifetime(
    received: ReceivedResponse, found: Directives, date: float, *, is_targeted: bool
) -> float | None:
    for name in ("s-maxage", "max-age"):
        lifetime_s = parse.seconds(found, name)
        if lifetime_s is not None:
            return float(lifetime_s)
    lines = set(parse.values(received.fields, "expires"))
    if not lines or is_targeted:
        return None
    expires = parse.instant(lines.pop()) if len(lines) == 1 else None
    return 0.0 if expires is None else max(0.0, expires - date)


def _heuristic(received: ReceivedResponse, found: Directives, date: float) -> float | None:
    """Return a tenth of the time since it was modified; 0, to be validated, where no such guess is allowed."""
    lines = parse.values(received.fields, "last-modified")
    has_validator = bool(lines or parse.values(received.fields, "etag"))
    if not lines or not (received.status in HEURISTIC_STATUSES or "public" in found):
        return 0.0 if has_validator else None
    modified = parse.instant(lines[0])
    if modified is None or "no-cache" in found:
        return 0.0
    return min(max(0.0, (date - modified) * _HEURISTIC_PART), _HEURISTIC_MOST_S)


def _date(received: ReceivedResponse) -> float:
    lines = parse.values(received.fields, "date")
    date = parse.instant(lines[0]) if lines else None
    return received.received_at if date is None else date


def _initial_age(received: ReceivedResponse, date: float, *, is_forced: bool) -> float:
    """RFC 9111 §4.2.3: corrected_initial_age.

    A lifetime that the request asked for begins with the response, however long the model took to give it.
    """
    said = parse.age(parse.values(received.fields, "age"))
    delay_s = max(0.0, received.received_at - received.requested_at) if said or not is_forced else 0.0
    apparent_s = max(0.0, float(int(received.received_at)) - date)
    return max(apparent_s, (said or 0) + delay_s)


def stored_fields(fields: Fields, found: Directives, forced_s: int, rules: Rules) -> Pairs:
    """Return what of a response's fields is stored, with the synthetic Cache-Control of a forced lifetime."""
    named = {name.strip().lower() for value in parse.values(fields, "connection") for name in value.split(",")}
    named |= {
        name.strip().lower()
        for directive in ("no-cache", "private")
        for listed in found.get(directive, ())
        if listed is not None
        for name in listed.split(",")
    }
    if not rules.keeps_date:
        named.add("date")
    kept = []
    for name, value in fields:
        lower = name.lower()
        if lower in NEVER_STORED or lower in named or lower.startswith(_NEVER_STORED_BEGIN):
            continue
        if lower == "vary":
            value = ", ".join(part.strip() for part in value.split(",") if part.strip().lower() != "origin")
            if not value:
                continue
        if forced_s and lower == "cache-control":
            continue
        kept.append((name, value))
    if forced_s:
        rest = [name for name, given in found.items() if given == (None,) and name not in ("public", "no-cache")]
        kept.append(("Cache-Control", ", ".join(["public", f"max-age={forced_s}", *rest])))
    return tuple(kept)


# -- serving ----------------------------------------------------------------------------------------------------------


class Verdict(Enum):
    """What may be done with a stored response now."""

    SERVE = "serve"
    SERVE_AND_REFRESH = "serve and refresh"  # stale-while-revalidate
    VALIDATE = "validate"


def judge(entry: Entry, asked: RequestDirectives, now: float) -> Verdict:
    """RFC 9111 §4.2, §5.2.1."""
    age_s = entry.age_s(now)
    if entry.is_validated_always or asked.no_cache:
        return Verdict.VALIDATE
    if asked.max_age_s is not None and (asked.max_age_s == 0 or age_s > asked.max_age_s):
        return Verdict.VALIDATE
    left_s = entry.lifetime_s - age_s
    if left_s > 0:
        return Verdict.SERVE if left_s >= asked.min_fresh_s else Verdict.VALIDATE
    if not entry.may_be_stale or asked.min_fresh_s:
        return Verdict.VALIDATE
    if asked.max_stale_s is not None and -left_s <= asked.max_stale_s:
        return Verdict.SERVE
    is_near = 0 < entry.while_revalidating_s >= -left_s
    return Verdict.SERVE_AND_REFRESH if is_near else Verdict.VALIDATE


def is_for_others(entry: Entry) -> bool:
    """Whether a request that had to wait for this response may have it, or would only have to validate it."""
    return judge(entry, NO_DIRECTIVES, entry.received_at) is not Verdict.VALIDATE


def may_serve_on_error(entry: Entry, asked: RequestDirectives, status: int | None, now: float) -> bool:
    """RFC 5861 §4; `status` None: there was no response at all."""
    if status is not None and status not in _STALE_STATUSES:
        return False
    if asked.no_cache or not entry.may_be_stale:
        return False
    return entry.age_s(now) - entry.lifetime_s <= entry.if_error_s


def keep_s(entry: Entry) -> float:
    """How long a stored response is of use after it went stale: to be validated, or served as RFC 5861 has it."""
    if entry.etag is not None or entry.last_modified is not None:
        return max(3600.0, float(entry.while_revalidating_s), float(entry.if_error_s))
    return float(max(entry.while_revalidating_s, entry.if_error_s))


def freshened(entry: Entry, received: ReceivedResponse, rules: Rules) -> Entry:
    """Return the stored response after a 304 (RFC 9111 §4.3.4): its fields, its age, its lifetime."""
    new = [
        (name, value)
        for name, value in stored_fields(received.fields, NONE, 0, rules)
        if name.lower() not in _NOT_FRESHENED
    ]
    names = {name.lower() for name, _ in new}
    fields = [field for field in entry.fields if field[0].lower() not in names] + new
    dated = parse.values(received.fields, "date")
    said = parse.values(received.fields, "age")
    merged = replace(
        received,
        status=entry.status,
        reason=entry.reason,
        fields=[
            *fields,
            *(("Date", value) for value in dated[:1] if not rules.keeps_date),
            *(("Age", v) for v in said),
        ],
    )
    judged = storable(merged, replace(rules, stores_streams=rules.stores_streams or entry.is_stream))
    if isinstance(judged, Refused):  # it says now that it must not be kept: of no use after this response
        return replace(
            entry, fields=tuple(fields), received_at=received.received_at, lifetime_s=0.0, may_be_stale=False
        )
    return replace(judged, key=entry.key, target=entry.target, vary=entry.vary, content=entry.content)
