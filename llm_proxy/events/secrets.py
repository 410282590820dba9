"""Secrets that must not be found in an event, in whatever spelling, coding or pieces they stand there."""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from llm_proxy.events.event import Event
from llm_proxy.formats.content_coding import codings, decoded
from llm_proxy.formats.lenient_json import loads
from llm_proxy.formats.sse import is_event_stream
from llm_proxy.formats.streams import merge
from llm_proxy.formats.texts import QUOTED
from llm_proxy.redaction import HIDDEN, hint
from llm_proxy.runtime.short_turns import breathe

_LEAST_SECRET = 8  # shorter ones would be found where they are none
_SHOWN = 8  # characters at a secret's beginning that its masked form shows
_MOST_BYTES = 262_144  # of a body whose coding had to be undone
_MAX_EXPANDED_BYTES = _MOST_BYTES + 4096  # looked at. What a longer one holds behind it is not kept
_ESCAPED = re.compile(rb"(?:\\u00|%(?:25){0,4})([2-7][0-9a-fA-F])")
_PIECES = re.compile(
    rb'"(?:content|text|arguments|delta|refusal|thinking|partial_json|transcript|reasoning|reasoning_content|value|input)"'
    rb'\s{0,8}:\s{0,8}"(' + QUOTED + rb')"',
    re.DOTALL,
)
_OTHER_PLACES = re.compile(rb'index"\s{0,8}:\s{0,8}[1-9]')  # several choices or blocks, whose pieces may alternate
_LOGPROBS = b'"logprobs"'
_WINDOW_BYTES = 8192  # searched at once for escapes
_MOST_SPELLED_BYTES = 13  # of one character: eight backslashes, "u" and four digits


class _Form(NamedTuple):
    """A secret as bytes, with its masked form and as much of its beginning as may be shown, and one byte more."""

    secret: str
    encoded: bytes
    masked: bytes
    beginning: bytes

    def hide_spelled(self, body: bytes) -> bytes:
        """Return the bytes with the secret masked, however its characters are escaped, or where its end is cut off."""
        encoded, masked = self.encoded, self.masked
        body = body.replace(encoded, masked)
        if _is_escaped(body, encoded):
            body = _respelled(body, encoded, _spellings(self.secret), masked)
        start = body.rfind(self.beginning, max(0, len(body) - len(encoded)))
        if start >= 0 and encoded.startswith(body[start:]):
            body = body[:start] + masked[:_SHOWN]
        return body


def _form(secret: str, masked: str) -> _Form:
    encoded = secret.encode("utf-8", "replace")
    return _Form(secret, encoded, masked.encode("utf-8", "replace"), encoded[: _SHOWN + 1])


class Secrets:
    """The caller's token, the provider's key, and the management tokens."""

    __slots__ = ("_forms", "_has_hidden", "_secrets")

    def __init__(self, secrets: Iterable[str | None], own: Iterable[str | None] = ()) -> None:
        """Know what to hide: of `secrets` that are long a hint stays, of `own` nothing."""
        self._secrets = {secret: hint(secret) for secret in secrets if secret and len(secret) >= _LEAST_SECRET}
        self._secrets |= {secret: HIDDEN for secret in own if secret and len(secret) >= _LEAST_SECRET}
        self._forms = tuple(_form(secret, masked) for secret, masked in self._secrets.items())
        self._has_hidden = False

    def hide(self, body: bytes) -> bytes:
        """Return the bytes with each secret in its masked form."""
        for form in self._forms:
            if form.encoded in body:
                body = body.replace(form.encoded, form.masked)
                self._has_hidden = True
        return body

    def hide_spelled(self, body: bytes) -> bytes:
        """Return the same, also where characters are escaped as JSON or an address does, or the end is cut off."""
        is_escaped = b"%" in body or b"\\u00" in body or b"\\/" in body
        for form in self._forms:
            if is_escaped or form.beginning in body:
                shown = form.hide_spelled(body)
                self._has_hidden = self._has_hidden or shown != body
                body = shown
        return body

    def are_absent(self, texts: Iterable[str]) -> bool:
        """Return whether no secret is in any of the texts, in any spelling; True only where that is sure."""
        joined = "\n".join(texts)
        if not joined.isascii() or "%" in joined or "\\" in joined:
            return False
        return not any(secret[: _SHOWN + 1] in joined for secret in self._secrets)

    def hide_text(self, text: str) -> str:
        """Return the text of a field with each secret masked."""
        for secret, masked in self._secrets.items():
            if secret in text:
                text = text.replace(secret, masked)
        return text

    def hide_spelled_text(self, text: str) -> str:
        """Return the same, also where characters are escaped."""
        return self.hide_spelled(text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")

    def hide_value(self, value: Any) -> Any:
        """Return a JSON value with each secret masked, and without the tokens that spell texts out again."""
        breathe()
        if isinstance(value, str):
            return self.hide_text(value)
        if isinstance(value, list):
            return [self.hide_value(item) for item in value]
        if isinstance(value, dict):
            return {self.hide_text(name): self.hide_value(item) for name, item in value.items() if name != "logprobs"}
        return value

    def clean(self, event: Event) -> None:
        """Hide the secrets in everything that the event says, its bodies' codings undone and pieces put together."""
        if not self._secrets:
            return
        texts = event.path, event.request_id, event.request_content_type or "", event.request_content_encoding or ""
        if not self.are_absent(texts):
            self._clean_texts(event)
        if event.request_body:
            self._clean_request(event, event.request_body)
        if event.response_body:
            self._clean_response(event, event.response_body)
        if event.response_tail:
            event.response_tail = self.hide_spelled(event.response_tail)

    def _clean_texts(self, event: Event) -> None:
        event.path, event.request_id = self.hide_spelled_text(event.path), self.hide_spelled_text(event.request_id)
        if event.request_content_type is not None:
            event.request_content_type = self.hide_spelled_text(event.request_content_type)
        if event.request_content_encoding is not None:
            event.request_content_encoding = self.hide_spelled_text(event.request_content_encoding)

    def _clean_request(self, event: Event, body: bytes) -> None:
        plain, is_whole = _plain(body, event.request_content_encoding or "")
        hidden = self.hide_spelled(plain)
        if hidden != plain or not is_whole:
            event.request_body, is_cut = hidden[:_MOST_BYTES], len(hidden) > _MOST_BYTES or not is_whole
            event.request_content_encoding = None
            if is_cut:
                event.request_truncated, event.request_bytes = True, event.request_bytes or len(body)

    def _clean_response(self, event: Event, body: bytes) -> None:
        encoding = event.header("Content-Encoding")
        plain, is_whole = _plain(body, encoding)
        hidden = self.hide_spelled(plain)
        is_stream = is_event_stream(event.header("Content-Type"), hidden)
        spells_out = _LOGPROBS in hidden and self._is_masked_in(hidden)
        if is_stream and (spells_out or self._is_split_in(hidden)):
            self._put_merged(event, hidden)
        elif hidden != plain or spells_out or not is_whole:
            _put_plain(event, self._without_logprobs(hidden) if spells_out else hidden, is_whole=is_whole)

    def _is_masked_in(self, body: bytes) -> bool:
        return self._has_hidden and any(form.masked in body for form in self._forms)  # asterisks alone are usual text

    def _is_split_in(self, stream: bytes) -> bool:
        """Return whether the pieces of a stream make a secret when they are put together."""
        joined = b"".join(_PIECES.findall(stream))
        if self.hide_spelled(joined) != joined:
            return True
        if _OTHER_PLACES.search(stream) is None:
            return False
        merged = merge(stream)
        return merged is not None and self.hide_value(merged.response) != _without_logprobs(merged.response)

    def _put_merged(self, event: Event, stream: bytes) -> None:
        """Replace a stream by the response that it stands for, masked; by nothing where that is not known."""
        merged = merge(stream)
        event.response_bytes = event.response_bytes or len(event.response_body or b"")
        if merged is None:
            event.response_body, event.response_tail, event.response_truncated = None, None, True
            return
        event.response_tail = None
        _put_plain(event, orjson.dumps(self.hide_value(merged.response)), is_whole=True)
        event.response_headers["Content-Type"] = ["application/json"]

    def _without_logprobs(self, body: bytes) -> bytes:
        try:
            return orjson.dumps(self.hide_value(loads(body)))
        except (ValueError, TypeError, RecursionError):  # cut in the middle: what follows the first of them goes
            return body[: body.find(_LOGPROBS)]


def _put_plain(event: Event, body: bytes, *, is_whole: bool) -> None:
    """Put a body without its content coding into an event, whose tail is part of what it replaces."""
    is_coded = bool(codings(event.header("Content-Encoding")))
    event.response_body, is_cut = body[:_MOST_BYTES], len(body) > _MOST_BYTES or not is_whole
    if is_cut:
        event.response_truncated, event.response_bytes = True, event.response_bytes or len(body)
    if is_coded or is_cut:
        event.response_tail = None
    event.response_headers = {
        name: values for name, values in event.response_headers.items() if name.lower() != "content-encoding"
    }


def _plain(body: bytes, encoding: str) -> tuple[bytes, bool]:
    """Return the body without its content coding, and whether that is all of it."""
    if not codings(encoding):
        return body, True
    plain = decoded(body, encoding, _MAX_EXPANDED_BYTES) or body
    return plain, plain is body or len(plain) < _MAX_EXPANDED_BYTES


def _without_logprobs(value: Any) -> Any:
    breathe()
    if isinstance(value, list):
        return [_without_logprobs(item) for item in value]
    if isinstance(value, dict):
        return {name: _without_logprobs(item) for name, item in value.items() if name != "logprobs"}
    return value


def _is_escaped(body: bytes, secret: bytes) -> bool:
    """Return whether the body escapes a character that the secret has."""
    if b"\\/" in body and b"/" in secret:
        return True
    if b"\\u00" not in body and b"%" not in body:
        return False
    if b"%25" in body and b"%" in secret:
        return True
    return any(int(code, 16) in secret for code in _escaped_in(body))


def _escaped_in(body: bytes) -> set[bytes]:
    """Return the codes, of two digits, of characters that the body escapes."""
    found = set[bytes]()
    for start in range(0, len(body), _WINDOW_BYTES):
        breathe()
        found.update(_ESCAPED.findall(body, start, start + _WINDOW_BYTES + _MOST_SPELLED_BYTES))
    return found


def _respelled(body: bytes, secret: bytes, spellings: re.Pattern[bytes], masked: bytes) -> bytes:
    """Return the body with the secret masked in each of its spellings."""
    kept, position, start, most = list[bytes](), 0, 0, _MOST_SPELLED_BYTES * len(secret)
    while start < len(body):
        breathe()
        end = start + _WINDOW_BYTES
        found = spellings.search(body, start, end + most)
        if found is None or found.start() >= end:
            start = end
            continue
        kept += (body[position : found.start()], masked)
        position = start = found.end()
    return b"".join((*kept, body[position:]))


@lru_cache(maxsize=64)
def _spellings(secret: str) -> re.Pattern[bytes]:
    """Return a pattern of the secret in which each character may be escaped; escapes may be escaped in turn."""
    return re.compile(b"".join(_spelled(character) for character in secret.encode("utf-8", "replace")))


def _spelled(character: int) -> bytes:
    both = b"".join(b"[%c%c]" % (digit, digit ^ 32) if digit > 57 else b"%c" % digit for digit in b"%02x" % character)
    slash = rb"|\\{1,8}/" if character == ord("/") else b""
    return rb"(?:%s|\\{1,8}u00%s|%%(?:25){0,4}%s%s)" % (re.escape(bytes((character,))), both, both, slash)
