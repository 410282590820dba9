"""Fields that callers may write: how a value is parsed, stored, shown, audited and described.

A table of `Field`s says what a resource has (`TOKEN_FIELDS`, `PROJECT_FIELDS`). Creation, PATCH, JSON, ETag, audit
details, the columns that requests read and the options of commands are made from it. A test compares openapi.yaml.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from llm_proxy.errors import BadRequest
from llm_proxy.money import MAX_INTEGER, nano_usd, usd, whole

INT64 = 2**63
_METADATA_KEYS, _METADATA_BYTES = 16, 1024


class Kind(ABC):
    """A form of values. A value that is absent or null means none.

    Attributes:
        form: How an option of a command is written: number, money, text, json, list or choice.
        is_told: Whether an audit record holds the new value; otherwise it holds that the field was changed.
    """

    form: ClassVar[str]
    is_told: ClassVar[bool] = True

    @abstractmethod
    def parse(self, wanted: Mapping[str, Any], name: str, known: Collection[str]) -> Any:
        """Return the value of the member. Raises BadRequest naming it.

        Args:
            known: Names of the providers.
        """

    def stored(self, value: Any) -> Any:
        """Return the column's value."""
        return value

    def loaded(self, column: Any) -> Any:
        """Return the value that a column holds."""
        return column

    def shown(self, value: Any) -> Any:
        """Return the value as JSON."""
        return value

    def audited(self, value: Any) -> Any:
        """Return what an audit record says of a change to this value."""
        return self.shown(value) if self.is_told else True

    @abstractmethod
    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of what a creation takes, without description."""


@dataclass(frozen=True, slots=True)
class Whole(Kind):
    """A whole number from 1 to `most`."""

    form = "number"
    most: int = MAX_INTEGER

    def parse(self, wanted: Mapping[str, Any], name: str, known: Collection[str]) -> int | None:
        """Return the number."""
        return whole(wanted, name, self.most)

    def schema(self) -> dict[str, Any]:
        """Return the bounds."""
        return {"type": ["integer", "null"], "minimum": 1, "maximum": self.most}


@dataclass(frozen=True, slots=True)
class Quota(Kind):
    """A whole number up to `most`; 0 is the same as null."""

    form = "number"
    most: int = MAX_INTEGER

    def parse(self, wanted: Mapping[str, Any], name: str, known: Collection[str]) -> int | None:
        """Return the number, None for 0."""
        return self.checked(typed(wanted, name, int), name)

    def checked(self, limit: int | None, name: str) -> int | None:
        """Return the number to store. Raises BadRequest."""
        audit = {f"requested_{name}": limit}
        if limit is not None and limit < 0:
            raise refused(f"{name} must be >= 0", name, audit)
        if limit is not None and limit > self.most:
            raise refused(f"{name} must be <= {self.most}", name, audit)
        return limit or None

    def loaded(self, column: Any) -> Any:
        """Return None for 0, which older releases stored."""
        return column or None

    def audited(self, value: Any) -> Any:
        """Return a word for None."""
        return "unlimited" if value is None else value

    def schema(self) -> dict[str, Any]:
        """Return the bounds."""
        return {"type": ["integer", "null"], "minimum": 0, "maximum": self.most}


@dataclass(frozen=True, slots=True)
class Money(Kind):
    """An amount in USD, kept in 10⁻⁹ USD."""

    form = "money"

    def parse(self, wanted: Mapping[str, Any], name: str, known: Collection[str]) -> int | None:
        """Return 10⁻⁹ USD."""
        return nano_usd(wanted, name)

    def shown(self, value: Any) -> Any:
        """Return USD."""
        return usd(value)

    def schema(self) -> dict[str, Any]:
        """Return the types, and the bounds of each: decimals may be written as text."""
        bounds = {"exclusiveMinimum": 0, "maximum": 1_000_000_000, "pattern": "^[0-9]{1,10}([.][0-9]{1,6})?$"}
        return {"type": ["number", "string", "null"], **bounds}


@dataclass(frozen=True, slots=True)
class Text(Kind):
    """A line of 1 to `most` printable characters, without blanks around it."""

    form = "text"
    is_told = False
    most: int = 255

    def parse(self, wanted: Mapping[str, Any], name: str, known: Collection[str]) -> str | None:
        """Return the text without blanks around it."""
        text: str | None = typed(wanted, name, str)
        if text is None:
            return None
        text = text.strip()
        if not 1 <= len(text) <= self.most or not text.isprintable():
            raise refused(f"{name} must be 1 to {self.most} printable characters", name)
        return text

    def schema(self) -> dict[str, Any]:
        """Return the lengths."""
        return {"type": ["string", "null"], "minLength": 1, "maxLength": self.most}


@dataclass(frozen=True, slots=True)
class Choice(Kind):
    """One of a few words; null is the first."""

    form = "choice"
    words: tuple[str, ...]

    def parse(self, wanted: Mapping[str, Any], name: str, known: Collection[str]) -> str:
        """Return the word."""
        word: str | None = typed(wanted, name, str)
        if word is not None and word not in self.words:
            raise refused(f"{name} must be one of {', '.join(self.words)}", name)
        return word or self.words[0]

    def schema(self) -> dict[str, Any]:
        """Return the words."""
        return {"oneOf": [{"type": "string", "enum": list(self.words)}, {"type": "null"}]}


class _Json(Kind):
    """A value that is stored as JSON text."""

    __slots__ = ()
    is_told = False

    def stored(self, value: Any) -> Any:
        """Return the text."""
        return None if value is None else json.dumps(value)

    def loaded(self, column: Any) -> Any:
        """Return what the text says."""
        return json.loads(column) if column else None


@dataclass(frozen=True, slots=True)
class FlatObject(_Json):
    """A flat object of at most 16 keys and 1 KiB."""

    form = "json"

    def parse(self, wanted: Mapping[str, Any], name: str, known: Collection[str]) -> dict[str, Any] | None:
        """Return the object."""
        value: Any = wanted.get(name)
        if value is None:
            return None
        is_flat = isinstance(value, dict) and not any(isinstance(inner, dict | list) for inner in value.values())
        if not is_flat or len(value) > _METADATA_KEYS:
            raise refused(f"{name} must be a flat object of at most {_METADATA_KEYS} keys", name)
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        if len(text.encode()) > _METADATA_BYTES or "\\u0000" in text:
            raise refused(f"{name} must not exceed {_METADATA_BYTES} bytes", name)
        return dict(value)

    def schema(self) -> dict[str, Any]:
        """Return the number of keys and the types of values."""
        values = {"type": ["string", "number", "boolean", "null"]}
        return {"type": ["object", "null"], "maxProperties": _METADATA_KEYS, "additionalProperties": values}


@dataclass(frozen=True, slots=True)
class ProviderNames(_Json):
    """A list of names of providers that is not empty, each name once."""

    form = "list"

    def parse(self, wanted: Mapping[str, Any], name: str, known: Collection[str]) -> tuple[str, ...] | None:
        """Return the names."""
        names: Any = wanted.get(name)
        if names is None:
            return None
        if not isinstance(names, list) or not names or not all(isinstance(each, str) for each in names):
            raise refused(f"{name} must be a list of names that is not empty, or null", name)
        unknown = [each for each in names if each not in known]
        if unknown:
            raise refused(f"{name} names an unknown provider: {unknown[0][:64]}", name)
        return tuple(dict.fromkeys(names))

    def loaded(self, column: Any) -> Any:
        """Return the names."""
        return tuple(json.loads(column)) if column else None

    def schema(self) -> dict[str, Any]:
        """Return the form of items."""
        return {"type": ["array", "null"], "minItems": 1, "items": {"type": "string", "minLength": 1}}


@dataclass(frozen=True, slots=True)
class Field:
    """A member of a resource that callers may write.

    Attributes:
        name: Its name in JSON.
        help: What it means, for the option of commands.
        is_enforced: Whether requests obey it: then the look-up of a token reads its column.
        column: The attribute and the column, where they have another name.
        has_option: False: commands declare the option themselves.
    """

    name: str
    kind: Kind
    help: str
    is_enforced: bool = False
    column: str = ""
    has_option: bool = True

    @property
    def attribute(self) -> str:
        """Return the name of the attribute and of the column."""
        return self.column or self.name


Fields = tuple[Field, ...]


class Row(Protocol):
    """Columns by name: a mapping, or a row of SQLAlchemy's, which takes its columns as keys too."""

    def __getitem__(self, name: str, /) -> Any:
        """Return the column's value."""


def parsed(fields: Fields, wanted: Mapping[str, Any], known: Collection[str] = ()) -> dict[str, Any]:
    """Return values by attribute, those that are absent too. Raises BadRequest naming the first wrong member."""
    return {field.attribute: field.kind.parse(wanted, field.name, known) for field in fields}


def named(fields: Fields, wanted: Mapping[str, Any]) -> Fields:
    """Return the fields that a body names."""
    return tuple(field for field in fields if field.name in wanted)


def to_columns(fields: Fields, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of those fields that `values` holds."""
    return {
        field.attribute: field.kind.stored(values[field.attribute]) for field in fields if field.attribute in values
    }


def from_columns(fields: Fields, row: Row) -> dict[str, Any]:
    """Return values by attribute from a row."""
    return {field.attribute: field.kind.loaded(row[field.attribute]) for field in fields}


def to_json(fields: Fields, record: object) -> dict[str, Any]:
    """Return the members of the JSON object."""
    return {field.name: field.kind.shown(getattr(record, field.attribute)) for field in fields}


def values_of(fields: Fields, record: object) -> dict[str, Any]:
    """Return values by attribute from a record, as a tag is made of them."""
    return {field.attribute: getattr(record, field.attribute) for field in fields}


def changes(fields: Fields, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an audit record says of a PATCH with these values by attribute."""
    return {
        f"updated_{field.name}": field.kind.audited(values[field.attribute])
        for field in fields
        if field.attribute in values
    }


def enforced(fields: Fields) -> Fields:
    """Return the fields that requests obey."""
    return tuple(field for field in fields if field.is_enforced)


def typed(wanted: Mapping[str, Any], name: str, kind: type) -> Any:
    """Return the member, None when absent or null. Raises BadRequest for another type or a number beyond 64 bits."""
    value = wanted.get(name)
    if value is None:
        return None
    is_right = type(value) is kind
    if isinstance(value, int) and not -INT64 <= value < INT64:
        is_right = False
    if not is_right:
        raise BadRequest(
            param=name, audit={"validation_error": "invalid request body", "error": f"{name} has a wrong type"}
        )
    return value


def refused(message: str, param: str | None = None, audit: Mapping[str, Any] | None = None) -> BadRequest:
    """Return the error of a value that is not taken."""
    return BadRequest(message, param=param, audit={"validation_error": message, **(audit or {})})
