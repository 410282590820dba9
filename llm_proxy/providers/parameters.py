"""The parameter allow-list: which values a request may name.

Plain values in, ParamNotAllowed or nothing out. Whoever reads the body decides which of the checks applies; what a
provider might read in two ways is judged by the reading that allows less.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl

import orjson

from llm_proxy.errors import InvalidJson, ParamNotAllowed

SHOWN_VALUE_CHARS = 256
_ESCAPE = b"\\u"
_SHORT_ESCAPES = re.compile(r"[\x00-\x1f\"\\/]")  # what JSON can write in another way than \\u (RFC 8259 §7)


class ParameterRules:
    """The patterns of one provider, compiled once. False when there are none."""

    __slots__ = ("_has_odd_names", "_quoted_names", "_rules", "names")

    def __init__(self, whitelist: Mapping[str, Iterable[str]]) -> None:
        """Raises ValueError for a pattern that is none; the schema has refused such a file before."""
        patterns = {name: tuple(patterns) for name, patterns in whitelist.items()}
        self._rules = {
            name: (tuple(compile_glob(pattern) for pattern in own), " ".join(own)) for name, own in patterns.items()
        }
        self.names = frozenset(self._rules)
        self._has_odd_names = any(_SHORT_ESCAPES.search(name) for name in self.names)
        self._quoted_names = tuple(json.dumps(name, ensure_ascii=False).encode() for name in self.names)

    def __bool__(self) -> bool:
        return bool(self._rules)

    def check(self, name: str, value: str) -> None:
        """One occurrence of one parameter, as text. Raises ParamNotAllowed; a name without a rule passes."""
        rule = self._rules.get(name)
        if rule is None:
            return
        if not any(pattern.fullmatch(value) for pattern in rule[0]):
            self.refuse(name, value)

    def refuse(self, name: str, value: str) -> None:
        """Raises ParamNotAllowed where there is a rule for the name: for a value too long to be looked at, too."""
        if (rule := self._rules.get(name)) is not None:
            shown = value[:SHOWN_VALUE_CHARS]
            raise ParamNotAllowed(
                f"Parameter '{name}' value '{shown}' is not allowed. Allowed patterns: [{rule[1]}]", param=name
            )

    def check_query(self, query: str) -> None:
        """Every parameter of a raw query string. Raises ParamNotAllowed."""
        if query and self._rules:
            self._check_pairs(query)

    def check_urlencoded(self, content: bytes) -> None:
        """Every field of an application/x-www-form-urlencoded body. Raises ParamNotAllowed."""
        self._check_pairs(content.decode("utf-8", "replace"))

    def _check_pairs(self, text: str) -> None:
        for name, value in parse_qsl(text, keep_blank_values=True, errors="replace"):
            self.check(name, value)

    def check_json(self, content: bytes) -> None:
        """Every occurrence of every parameter at the top of a JSON object.

        Raises InvalidJson when it is no JSON object, ParamNotAllowed.
        """
        for name, value in self._top_level(content):
            if name in self._rules:
                self.check(name, value if isinstance(value, str) else _compact(value))

    def _top_level(self, content: bytes) -> Iterable[tuple[str, Any]]:
        """The object's members. Python's slower parser is asked only where a name could be there twice."""
        try:
            document = orjson.loads(content)
        except orjson.JSONDecodeError:
            raise InvalidJson from None
        if not isinstance(document, dict):
            raise InvalidJson
        if (
            not self._has_odd_names
            and _ESCAPE not in content
            and all(content.count(name) <= 1 for name in self._quoted_names)
        ):
            return document.items()
        return json_members(content)


def json_members(content: bytes) -> list[tuple[str, Any]]:
    """The members of a JSON object in their order, repeated names included. Raises InvalidJson."""
    try:
        members = json.loads(content, object_pairs_hook=_Members)
    except (ValueError, RecursionError):
        raise InvalidJson from None
    if not isinstance(members, _Members):
        raise InvalidJson
    return members


class _Members(list[tuple[str, Any]]):
    """A JSON object as it was written."""


def _compact(value: Any) -> str:
    """JSON text without blanks: `123`, `true`, `null`, `["a"]`."""
    return json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"))


def _plain(value: Any) -> Any:
    if isinstance(value, _Members):
        return {name: _plain(inner) for name, inner in value}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


# -- globs ----------------------------------------------------------------------------------------------------


def compile_glob(pattern: str) -> re.Pattern[str]:
    r"""A shell-style pattern as a regular expression for `fullmatch`; case counts.

    `*` is any run and `?` any one character, neither of them a slash; `[a-z]` and `[^a]` are classes; `\` takes the
    next character as it is. Time grows with the value's length times the pattern's, never worse: what stands between
    two `*` is taken at its first place and not tried again, which loses no match because only a written slash matches
    a slash. Raises ValueError worded as what is accepted.
    """
    if not pattern:
        raise ValueError("a pattern such as gpt-4o-*")
    pieces = [""]  # one for each stretch between two stars
    position = 0
    while position < len(pattern):
        char = pattern[position]
        if char == "*":
            pieces.append("")
            position += 1
            continue
        item, position = _glob_item(pattern, position)
        pieces[-1] += item
    first, *rest = pieces
    if not rest:
        return re.compile(first, re.DOTALL)
    middle = "".join(f"(?>[^/]*?{piece})" for piece in rest[:-1] if piece)
    return re.compile(f"{first}{middle}[^/]*{rest[-1]}", re.DOTALL)


def _glob_item(pattern: str, position: int) -> tuple[str, int]:
    """The expression for what matches exactly one character, and where the next item begins."""
    char = pattern[position]
    if char == "?":
        return "[^/]", position + 1
    if char == "[":
        return _glob_class(pattern, position + 1)
    if char == "\\":
        position += 1
        if position == len(pattern):
            raise ValueError("a pattern that does not end in \\")
    return re.escape(pattern[position]), position + 1


def _glob_class(pattern: str, position: int) -> tuple[str, int]:
    """From behind the bracket. A class never matches a slash."""
    is_negated = pattern[position : position + 1] == "^"
    position += is_negated
    ranges = ""
    while True:
        if position < len(pattern) and pattern[position] == "]" and ranges:
            return (f"[^/{ranges}]" if is_negated else f"(?!/)[{ranges}]"), position + 1
        low, position = _class_character(pattern, position)
        high = low
        if pattern[position : position + 1] == "-":
            high, position = _class_character(pattern, position + 1)
            if high < low:
                raise ValueError("a pattern whose ranges go upwards, such as [a-z]")
        ranges += f"{re.escape(low)}-{re.escape(high)}"


def _class_character(pattern: str, position: int) -> tuple[str, int]:
    if pattern[position : position + 1] == "\\":
        position += 1
    elif pattern[position : position + 1] in ("-", "]"):
        raise ValueError("a pattern whose classes are written as [a-z], with \\ before a literal - or ]")
    if position >= len(pattern):
        raise ValueError("a pattern whose classes are closed, such as [a-z]")
    return pattern[position], position + 1
