"""What to do differently with a request: the plan, the rules that choose one, and their written form.

A plan is a mapping: in a rules file (YAML or JSON), in the control resource, or in a request's own `X-Simulate` field,
there as JSON or as `name=value; name=value`.
"""

import fnmatch
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from llm_proxy_simulator.wire import Request

Pairs = tuple[tuple[str, str], ...]


class PlanError(ValueError):
    """A plan or rule that says something unknown; the message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How one exchange departs from the usual. Times are seconds, sizes bytes; None and empty mean as usual."""

    status: int | None = None  # an error object with this status (or, below 400, the usual body)
    delay_s: float = 0.0  # before the head
    early: bool = False  # answer without reading the request's body
    proceed: bool = True  # send 100 Continue when it is expected
    cut: str | None = None  # `head`: no byte at all; `mid-head`; `body`: after `after` bytes
    reset: bool = False  # cut with RST instead of FIN
    silence: str | None = None  # `head` or `body`: say nothing more, stay connected until the peer goes
    after: int = 0  # body bytes before `cut` or `silence` at `body`
    garbage: bool = False  # something that is not HTTP
    redirect: str | None = None  # 307 to this place
    drip_s: float = 0.0  # each byte of the body on its own, so far apart
    events: int | None = None  # words of the response, and events of a stream
    interval_s: float | None = None  # between a stream's events
    size: int | None = None  # a body of so many bytes, whatever was asked for
    body: str | None = None  # this body
    content_type: str | None = None
    fields: Pairs = ()  # added to the head
    gzip: bool = False
    framing: str | None = None  # `length`, `chunked` or `close`
    length: int | None = None  # a Content-Length that is not true
    version: str = "1.1"
    interim: tuple[int, ...] = ()  # 1xx responses before the head
    trailers: Pairs = ()
    close: bool = False  # Connection: close
    drop: bool = False  # close after the response without having said so
    done: bool = True  # end streams with [DONE]
    tool: bool = False  # answer with a call of the first tool of the request
    usage: Mapping[str, int] | None = None  # replaces the counts: prompt, completion, cached, reasoning


def _seconds(value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return float(value)
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|)", str(value))
    if found is None:
        raise PlanError("seconds, or 200ms, 3s, 2m")
    return float(found[1]) * {"ms": 0.001, "s": 1.0, "m": 60.0, "": 1.0}[found[2]]


def _number(value: Any) -> int:
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,15}", str(value)):
        raise PlanError("a whole number")
    return int(value)


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).lower() in ("true", "1", "yes"):
        return True
    if str(value).lower() in ("false", "0", "no"):
        return False
    raise PlanError("true or false")


def _one_of(*words: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in words:
            raise PlanError("one of " + ", ".join(words))
        return str(value)

    return parse


def _pairs(value: Any) -> Pairs:
    """Return a list of [name, value], a mapping, or `Name: value` lines separated by `|`."""
    if isinstance(value, Mapping):
        return tuple((str(name), str(item)) for name, item in value.items())
    if isinstance(value, str):
        value = [line.split(":", 1) for line in value.split("|")]
    if not isinstance(value, list) or any(not isinstance(pair, list) or len(pair) != 2 for pair in value):
        raise PlanError("a list of [name, value]")
    return tuple((str(name).strip(), str(item).strip()) for name, item in value)


def _numbers(value: Any) -> tuple[int, ...]:
    items = value if isinstance(value, list) else str(value).split(",")
    return tuple(_number(item) for item in items)


def _usage(value: Any) -> Mapping[str, int]:
    if not isinstance(value, Mapping) or not set(value) <= {"prompt", "completion", "cached", "reasoning"}:
        raise PlanError("a mapping of prompt, completion, cached, reasoning")
    return {str(name): _number(count) for name, count in value.items()}


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "status": _number,
    "delay_s": _seconds,
    "early": _flag,
    "tool": _flag,
    "proceed": _flag,
    "cut": _one_of("head", "mid-head", "body"),
    "reset": _flag,
    "silence": _one_of("head", "body"),
    "after": _number,
    "garbage": _flag,
    "redirect": str,
    "drip_s": _seconds,
    "events": _number,
    "interval_s": _seconds,
    "size": _number,
    "body": str,
    "content_type": str,
    "fields": _pairs,
    "gzip": _flag,
    "framing": _one_of("length", "chunked", "close"),
    "length": _number,
    "version": _one_of("1.0", "1.1"),
    "interim": _numbers,
    "trailers": _pairs,
    "close": _flag,
    "drop": _flag,
    "done": _flag,
    "usage": _usage,
}
PLAN_NAMES = tuple(f.name for f in fields(Plan))


def read_plan(mapping: Mapping[str, Any], onto: Plan | None = None) -> Plan:
    """Return a plan from its written form; names with `_s` may leave it out. Raises PlanError."""
    values = {}
    for written, value in mapping.items():
        name = str(written).replace("-", "_")
        name = name if name in _PARSERS else f"{name}_s"
        if name not in _PARSERS:
            raise PlanError(f"{written} is unknown; known are: {', '.join(PLAN_NAMES)}")
        try:
            values[name] = _PARSERS[name](value)
        except PlanError as exc:
            raise PlanError(f"{written}: expected {exc}") from None
    return replace(onto or Plan(), **values)


def read_field(value: str, onto: Plan) -> Plan:
    """Return a plan from the field `X-Simulate`. Raises PlanError."""
    if value.startswith("{"):
        try:
            return read_plan(json.loads(value), onto)
        except json.JSONDecodeError:
            raise PlanError("X-Simulate is neither JSON nor name=value; name=value") from None
    items = (item.partition("=") for item in value.split(";") if item.strip())
    return read_plan({name.strip(): text.strip() if equals else True for name, equals, text in items}, onto)


@dataclass(slots=True)
class Rule:
    """Which requests a plan is for. All that is said must hold; `nth` counts the requests that the rest fits."""

    plan: Plan
    method: str | None = None
    path: str = "*"
    nth: tuple[int, ...] = ()
    every: int = 0
    times: int = 0
    seen: int = 0
    used: int = 0

    def takes(self, request: Request) -> bool:
        """Whether the plan is for this request; counts it."""
        if self.method not in (None, request.method) or not fnmatch.fnmatchcase(request.path, self.path):
            return False
        self.seen += 1
        if self.times and self.used >= self.times:
            return False
        if self.nth and self.seen not in self.nth:
            return False
        if self.every and self.seen % self.every:
            return False
        self.used += 1
        return True


_RULE_PARSERS: dict[str, Callable[[Any], Any]] = {
    "method": lambda value: str(value).upper(),
    "path": str,
    "nth": _numbers,
    "every": _number,
    "times": _number,
}


def read_rules(written: Any) -> list[Rule]:
    """Rules from their written form: a list of mappings, each a plan with `method`, `path`, `nth`, `every`, `times`.

    The first rule that takes a request decides. Raises PlanError naming the rule by its number.
    """
    if not isinstance(written, list) or any(not isinstance(item, Mapping) for item in written):
        raise PlanError("expected a list of mappings")
    rules = []
    for number, item in enumerate(written, 1):
        try:
            chosen = {name: _RULE_PARSERS[name](value) for name, value in item.items() if name in _RULE_PARSERS}
            plan = read_plan({name: value for name, value in item.items() if name not in _RULE_PARSERS})
        except PlanError as exc:
            raise PlanError(f"rule {number}: {exc}") from None
        rules.append(Rule(plan, **chosen))
    return rules


def read_rules_file(path: Path) -> list[Rule]:
    """Rules of a YAML or JSON file. Raises PlanError, also when the file cannot be read."""
    try:
        return read_rules(yaml.safe_load(path.read_text()) or [])
    except (OSError, UnicodeDecodeError):
        raise PlanError(f"{path} cannot be read") from None
    except yaml.YAMLError:
        raise PlanError(f"{path} is neither YAML nor JSON") from None
    except PlanError as exc:
        raise PlanError(f"{path}: {exc}") from None


def choose(rules: Iterable[Rule], request: Request) -> Plan:
    """Return the plan for a request: the first rule that takes it, then what the request itself asks for."""
    plan = next((rule.plan for rule in rules if rule.takes(request)), Plan())
    asked = request.value("x-simulate")
    return plan if asked is None else read_field(asked, plan)
