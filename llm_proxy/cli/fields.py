"""Options that are made from a table of fields, and the body that their values make."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import click

from llm_proxy.cli.errors import CommandError
from llm_proxy.cli.options import nullable
from llm_proxy.model.fields import Choice, Field, Fields

_METAVARS = {"number": "N|none", "money": "USD|none", "text": "TEXT|none", "json": "JSON|none", "list": "LIST|none"}


def field_options(fields: Fields) -> Callable[[Any], Any]:
    """Return a decorator that gives a command an option for each field."""

    def decorate(command: Any) -> Any:
        for field in reversed(_optional(fields)):
            command = _option(field)(command)
        return command

    return decorate


def body_of(fields: Fields, said: Mapping[str, str | None]) -> dict[str, Any]:
    """Return the members that the options named. Raises CommandError naming the option."""
    return {
        field.name: _value(field, text) for field in _optional(fields) if (text := said.get(field.name)) is not None
    }


def plain(value: Any) -> Any:
    """Return a member's value as a person reads it."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value


def _optional(fields: Fields) -> Fields:
    return tuple(field for field in fields if field.has_option)


def _option(field: Field) -> Callable[[Any], Any]:
    if isinstance(field.kind, Choice):
        return click.option(_name(field), type=click.Choice(field.kind.words), help=field.help)
    return click.option(_name(field), metavar=_METAVARS[field.kind.form], help=field.help)


def _name(field: Field) -> str:
    return f"--{field.name.replace('_', '-')}"


def _value(field: Field, text: str) -> Any:
    form = field.kind.form
    if form in ("number", "money"):
        return nullable(field.name, text)
    if form == "choice":
        return text
    if text == "none":
        return None
    if form == "list":
        return [item.strip() for item in text.split(",")]
    return _json(field, text) if form == "json" else text


def _json(field: Field, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise CommandError(f"{_name(field)}: expected a JSON object or none") from None
