"""What is written in requests and responses: material for an estimate. Vectors, pictures and sound are no text."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

from llm_proxy.formats.lenient_json import loads
from llm_proxy.runtime.short_turns import breathe

# What stands between two quotes. No possessive group may match in two ways: see json_members.
QUOTED: Final = rb'[^"\\]*+(?:\\.[^"\\]*+)*+'
NAMES = frozenset(
    (
        "content",
        "text",
        "arguments",
        "refusal",
        "reasoning_content",
        "reasoning",
        "delta",
        "thinking",
        "partial_json",
        "transcript",
    )
)
_PROMPT_MEMBERS = (
    *("messages", "input", "prompt", "instructions", "system"),
    *("contents", "content", "requests", "systemInstruction", "system_instruction"),  # Gemini's
)
_CALL_ARGUMENTS = ("input", "args")  # of a tool call, as an object: Anthropic's, Gemini's
_MAX_NODES = 200_000
_STRING = re.compile(
    rb'"(?P<name>[A-Za-z0-9_]{1,40})"\s{0,8}:\s{0,8}"(?P<text>' + QUOTED + rb')(?P<end>"?)',
    re.DOTALL,
)
_REST = re.compile(QUOTED, re.DOTALL)  # of a string, up to its end
_OPEN_MEMBER = re.compile(rb'"([A-Za-z0-9_]{1,40})"\s{0,8}:[^"]*\Z')


def texts_of(value: Any) -> list[str]:
    """Return everything written in a response, a chunk or messages; addresses, ids, roles and media left out.

    The walk is iterative and bounded, so that no nesting is too deep for it.
    """
    found: list[str] = []
    waiting: list[Any] = [value]
    nodes = 0
    while waiting and nodes < _MAX_NODES:
        nodes += 1
        item = waiting.pop()
        breathe()
        if isinstance(item, str):
            found.append(item)
        elif isinstance(item, dict):
            waiting.extend(reversed([part for name, part in item.items() if _is_wanted(name, part)]))
            found.extend(_call_arguments(item))
        elif isinstance(item, list):
            waiting.extend(reversed([part for part in item if isinstance(part, str | dict | list)]))
    return found


def _is_wanted(name: str, value: Any) -> bool:
    if isinstance(value, str):
        return name in NAMES
    return isinstance(value, dict | list) and not (name in _CALL_ARGUMENTS and isinstance(value, dict))


def _call_arguments(item: Mapping[str, Any]) -> Iterator[str]:
    for name in _CALL_ARGUMENTS:
        if isinstance(arguments := item.get(name), dict) and arguments:
            yield _compact(arguments)


def _compact(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except (TypeError, ValueError):  # nested beyond the writer's bound
        return "".join(texts_of(list(value.values())))


def prompt_texts(asked: Mapping[str, Any]) -> list[str]:
    """Return what a request gives the model to read."""
    found: list[str] = []
    for name in _PROMPT_MEMBERS:
        value = asked.get(name)
        if value is not None:
            found += texts_of(value)
    return found


def token_ids(asked: Mapping[str, Any]) -> int:
    """Return how many tokens a prompt of token ids has: each number is one. 0 for prompts of text."""
    return sum(_numbers(asked.get(name)) for name in ("input", "prompt"))


def _numbers(value: Any) -> int:
    if not isinstance(value, list):
        return 0
    rows = value if value and isinstance(value[0], list) else [value]
    return sum(len(row) for row in rows if isinstance(row, list) and row and isinstance(row[0], int))


def texts_of_cut_json(head: bytes, tail: bytes = b"") -> tuple[list[str], bool]:
    """Return the texts in both ends of a JSON text, and whether what is missing between them is text, too."""
    texts, last = list[str](), None
    for last in _STRING.finditer(head):
        breathe()
        if last["name"].decode() in NAMES:
            texts.append(_plain(last["text"]))
    is_text = True
    if last is not None and not last["end"]:  # the head ends in this string
        is_text = last["name"].decode() in NAMES
        if is_text and (rest := _REST.match(tail)) is not None:
            texts.append(_plain(rest[0]))
    elif (name := _open_member(head)) is not None:
        is_text = name in NAMES
    for match in _STRING.finditer(tail):
        breathe()
        if match["name"].decode() in NAMES:
            texts.append(_plain(match["text"]))
    return texts, is_text


def _open_member(head: bytes) -> str | None:
    """Return the name of the array or object that the head ends in; None where it ends otherwise."""
    last_quote = head.rfind(b'"')
    found = _OPEN_MEMBER.search(head, max(0, last_quote - 50))
    return found[1].decode() if found is not None else None


def _plain(text: bytes) -> str:
    """Return a JSON string's text."""
    try:
        value = loads(b'"' + text + b'"')
    except ValueError:  # it ends inside an escape
        value = None
    return value if isinstance(value, str) else text.decode("utf-8", "replace")
