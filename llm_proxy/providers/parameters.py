"""The parameter allow-list: which values a request may name.

Plain values in, ParamNotAllowed or nothing out. `formats.request_body` reads the body; what a provider might
read in two ways is judged by the reading that allows less.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from llm_proxy.errors import ParamNotAllowed
from llm_proxy.formats.names import fold, fold_field
from llm_proxy.formats.request_body import decoded, pairs

SHOWN_VALUE_CHARS = 256


class _Rule(NamedTuple):
    name: str
    patterns: tuple[re.Pattern[str], ...]
    shown: str


class ParameterRules:
    """The patterns of one provider, compiled once. False when there are none.

    Attributes:
        names: Folded names that there are rules for, also as fields of forms and queries fold them.
    """

    __slots__ = ("_rules", "names")

    def __init__(self, whitelist: Mapping[str, Iterable[str]]) -> None:
        """Compile the rules.

        Raises ValueError for a pattern that is none; the schema has refused such a file before.
        """
        self._rules: dict[str, list[_Rule]] = {}
        for name, patterns in whitelist.items():
            own = tuple(patterns)
            rule = _Rule(name, tuple(compile_glob(pattern) for pattern in own), " ".join(own))
            for folded in {fold(name), fold_field(name)}:
                self._rules.setdefault(folded, []).append(rule)
        self.names = frozenset(self._rules)

    def __bool__(self) -> bool:
        return bool(self._rules)

    def check(self, name: str, value: str) -> None:
        """Check one occurrence of one parameter, as text; `name` is folded.

        Raises ParamNotAllowed; a name without a rule passes.
        """
        for rule in self._rules.get(name, ()):
            if not any(pattern.fullmatch(value) for pattern in rule.patterns):
                raise _refusal(rule, value)

    def refuse(self, name: str, value: str) -> None:
        """Raise ParamNotAllowed where there is a rule for the folded name: for a value too long to be checked."""
        for rule in self._rules.get(name, ()):
            raise _refusal(rule, value)

    def check_query(self, query: str) -> None:
        """Check every parameter of a raw query string. Raises ParamNotAllowed, InvalidRequest."""
        if query and self._rules:
            for name, value in pairs(query.encode("latin-1", "replace")):
                if name in self._rules:
                    self.check(name, decoded(value))


def _refusal(rule: _Rule, value: str) -> ParamNotAllowed:
    shown = value[:SHOWN_VALUE_CHARS]
    message = f"Parameter '{rule.name}' value '{shown}' is not allowed. Allowed patterns: [{rule.shown}]"
    return ParamNotAllowed(message, param=rule.name)


# -- globs ----------------------------------------------------------------------------------------------------


def compile_glob(pattern: str) -> re.Pattern[str]:
    r"""Return a shell-style pattern as a regular expression for `fullmatch`; case counts.

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
    """Return the expression for what matches exactly one character, and where the next item begins."""
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
