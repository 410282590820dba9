"""The one reader of request bodies, for allow-lists, budgets and usage: parameters of a JSON object or of a form.

A provider may read a body more leniently than its type says, so the reading that allows less counts: names are compared
without case, every occurrence is reported, and a body whose type says nothing has to be a JSON object.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from enum import Enum
from typing import Final, NamedTuple, Protocol
from urllib.parse import unquote_to_bytes

from llm_proxy.errors import InvalidJson, InvalidRequest, RequestTooLarge
from llm_proxy.formats.json_members import MAX_VALUE_BYTES, JsonMembers, Member
from llm_proxy.formats.multipart import FormScanner, boundary_of
from llm_proxy.formats.names import fold, fold_field, is_readable

MAX_FIELDS: Final = 1000
MAX_URLENCODED_BYTES: Final = 1024 * 1024  # no endpoint of OpenAI's takes such forms
SLICE_BYTES: Final = 4096  # read at once: a few milliseconds at worst
_MAX_NAME_BYTES: Final = 512  # as sent
_MAX_FIELD_BYTES: Final = 65536  # of a watched value in a urlencoded form, as sent
_BLANKS: Final = b" \t\r\n"
_SKIPPED: Final = _BLANKS + b"\x00\x0b\x0c\xef\xbb\xbf\xfe\xff"  # marks of UTF-8, UTF-16, UTF-32, and their zero bytes
_MODEL: Final = "model"
_MODEL_JSON_BYTES: Final = 32768  # of a JSON body in which its model is looked for: some 30 ms at worst


class Kind(Enum):
    """What a Content-Type makes of a body."""

    JSON = "json"
    MULTIPART = "multipart"
    URLENCODED = "urlencoded"
    OTHER = "other"


class Parameter(NamedTuple):
    """A watched parameter of a body. `name` is folded; `text` is None where it was too long."""

    name: str
    text: str | None
    is_string: bool = True


Found = Callable[[Parameter], None]


class Reader(Protocol):
    """Reads a body that is fed to it piece by piece."""

    def feed(self, data: bytes) -> None:
        """Read the next piece. Raises InvalidRequest, RequestTooLarge, or what `found` raises."""

    def finish(self) -> None:
        """Note the end. Raises the same."""


def kind_of(content_type: str | None) -> Kind:
    """Return what the media type says, whatever its parameters and case; a missing or unknown one is OTHER."""
    if not content_type:
        return Kind.OTHER
    if content_type == "application/json":
        return Kind.JSON
    media_types = [part.partition(";")[0].strip().lower() for part in content_type.split(",")]
    for media_type in media_types:  # a list is no valid Content-Type, and yet a provider may read one of its items
        if media_type == "application/json" or media_type.endswith("+json"):
            return Kind.JSON
        if media_type == "multipart/form-data":
            return Kind.MULTIPART
        if media_type == "application/x-www-form-urlencoded":
            return Kind.URLENCODED
    return Kind.OTHER


def check_charset(content_type: str | None) -> None:
    """Raise InvalidRequest for a charset in which a provider would read other text than is read here."""
    if content_type and not is_readable(content_type):
        raise InvalidRequest("Only UTF-8 is accepted where parameters are checked", param="Content-Type")


def pairs(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield folded names and raw values of urlencoded content, split at `&`, and once more where `;` may split, too.

    Raises InvalidRequest for a name that is too long.
    """
    fields = content.split(b"&")
    if b";" in content:
        fields += content.replace(b";", b"&").split(b"&")
    for field in fields:
        name, _, value = field.partition(b"=")
        if len(name) > _MAX_NAME_BYTES:
            raise InvalidRequest(f"The name of a parameter has more than {_MAX_NAME_BYTES} bytes")
        if name:
            yield fold_field(decoded(name)), value


def decoded(raw: bytes) -> str:
    """Return the text of a urlencoded name or value."""
    if b"%" not in raw:
        return raw.replace(b"+", b" ").decode("utf-8", "replace")
    return unquote_to_bytes(raw.replace(b"+", b" ")).decode("utf-8", "replace")


def reader_of(
    content_type: str | None, watched: Collection[str], found: Found, *, max_watched_bytes: int = MAX_VALUE_BYTES
) -> Reader:
    """Return the reader for a body of this type.

    Args:
        watched: Folded names of parameters.
        found: Told of each of them, in order and as often as it stands there; what it raises is let through.
        max_watched_bytes: Of all watched fields of a multipart form together.

    Raises:
        InvalidMultipart: The type names no usable boundary.
    """
    kind = kind_of(content_type)
    if kind is Kind.MULTIPART:
        boundary = boundary_of(content_type or "")
        scanner = FormScanner(boundary, watched, lambda n, t: found(Parameter(n, t)), max_bytes=max_watched_bytes)
        return _Optional(scanner)
    json = _json(watched, found)
    return _Either(json, _Urlencoded(watched, found)) if kind is Kind.URLENCODED else json


def model_of(content_type: str, content: bytes) -> str | None:
    """Return the model that a body names, as far as it is there; None where it names none. Never raises.

    Of several the last counts, as it does for most providers.
    """
    found: list[str] = []

    def note(parameter: Parameter) -> None:
        if parameter.is_string and parameter.text:
            found.append(parameter.text)

    if kind_of(content_type) in (Kind.JSON, Kind.OTHER):
        content = content[:_MODEL_JSON_BYTES]
    with suppress(InvalidRequest):  # what was found up to there counts
        reader = reader_of(content_type, (_MODEL,), note)
        reader.feed(content)
        reader.finish()
    return found[-1] if found else None


class _Optional:
    """A body that a parser reads, or nothing at all."""

    def __init__(self, parser: JsonMembers | FormScanner) -> None:
        self._parser, self._is_empty = parser, True

    def feed(self, data: bytes) -> None:
        """Read on."""
        self._is_empty = False
        self._parser.feed(data)

    def finish(self) -> None:
        """Read the end. Raises what the parser does of a body that is not whole."""
        if not self._is_empty:
            self._parser.finish()


def _json(watched: Collection[str], found: Found) -> _Optional:
    def is_watched(name: str) -> bool:
        return fold(name) in watched

    def report(member: Member) -> None:
        found(Parameter(fold(member.name), member.text, member.is_string))

    return _Optional(JsonMembers(is_watched, report))


class _Urlencoded:
    """A urlencoded form; kept whole, within bounds."""

    def __init__(self, watched: Collection[str], found: Found) -> None:
        self._watched, self._found = watched, found
        self._content = bytearray()

    def feed(self, data: bytes) -> None:
        """Keep the data. Raises RequestTooLarge past the bound."""
        self._content += data
        if len(self._content) > MAX_URLENCODED_BYTES:
            raise RequestTooLarge.of_limit("The most of a urlencoded form", MAX_URLENCODED_BYTES)

    def finish(self) -> None:
        """Report the watched fields. Raises InvalidJson where there are too many fields."""
        content = bytes(self._content)
        if content.count(b"&") + content.count(b";") >= MAX_FIELDS:
            raise InvalidJson(f"Request body has more than {MAX_FIELDS} fields")
        for name, value in pairs(content):
            if name in self._watched:
                self._found(Parameter(name, decoded(value) if len(value) <= _MAX_FIELD_BYTES else None))


class _Either:
    """A body of a form's type: some providers read JSON whatever its type is, in each encoding that JSON has had."""

    def __init__(self, json: Reader, form: Reader) -> None:
        self._json, self._form = json, form
        self._chosen: Reader | None = None
        self._mark = b""  # a byte before the first that tells, where it is no blank: no JSON in UTF-8 begins so

    def feed(self, data: bytes) -> None:
        """Read on; the first byte that is not blank decides which reader gets the data."""
        if self._chosen is None:
            start = data.lstrip(_SKIPPED)
            self._mark = self._mark or data[: len(data) - len(start)].strip(_BLANKS)[:1]
            if not start:
                return
            if start.startswith(b"{"):
                self._chosen, data = self._json, self._mark + start
            else:  # read as if nothing stood before it, as Express does with a mark
                self._chosen, data = self._form, start
        self._chosen.feed(data)

    def finish(self) -> None:
        """Read the end with the reader that was chosen, if any."""
        if self._chosen is not None:
            self._chosen.finish()
