"""The one redaction layer: logs, audit records and events pass it, and nothing switches it off.

Two things are hidden: what looks like a secret (bearers, provider keys, `Authorization` and `Cookie` values, DSN
passwords), and what is known to be one (the literal values of the secret settings, learnt once at the start).
Clients choose the texts, so every pattern takes time in proportion to the text's length.
"""

import base64
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from llm_proxy.settings import Settings, variables

HIDDEN = "***"
_LEAST_LITERAL = 4  # a shorter "secret" would blank out ordinary words

# What a text must contain (in lower case) to be worth the patterns below; plain `in` costs a tenth of a search.
_CLUES = (
    "sk-",
    "mk-",
    "bearer",
    "basic",
    "authorization",
    "cookie",
    "api_key",
    "api-key",
    "apikey",
    "passw",
    "secret",
    "@",
    "aiza",
    "gsk_",
    "xai-",
)
_KEY_SHAPES = re.compile(
    r"(?<![A-Za-z0-9])(?:sk-[A-Za-z0-9_-]{8,}|mk-[A-Za-z0-9]{22}|AIza[A-Za-z0-9_-]{20,}|gsk_[A-Za-z0-9]{16,}|xai-[A-Za-z0-9]{16,})"
)
_SCHEMES = re.compile(r"\b(bearer|basic)(\s+)([A-Za-z0-9._~+/=-]{4,})", re.IGNORECASE)
_FIELDS = re.compile(
    r"\b((?:proxy-)?authorization|(?:set-)?cookie)([\"']?\s*[:=,]\s*)(b?[\"'])?((?(3)[^\"']*|[^\r\n]*))", re.IGNORECASE
)
_NAMED = re.compile(
    r"((?:api[_-]?key|passw(?:or)?d|secret)[\"']?\s*[:=]\s*)([\"']?)([^\s\"',;&}\])]{3,})", re.IGNORECASE
)
_URL_USER = re.compile(r"(?<=[A-Za-z0-9+.-])://[^\s/:@\"']*:")  # to the colon before a password
_DSN_USER = re.compile(r"(?<=[A-Za-z0-9_.%+~-]):")
_DSN_HOST = re.compile(r"@(?:tcp|unix)\(")
_WORD_END = re.compile(r"[\s\"']")
_ESCAPED = re.compile(r"%([2-6][0-9a-f]|7[0-9a-e])|\\{1,8}u00([2-6][0-9a-f]|7[0-9a-e])", re.IGNORECASE)
_ESCAPES_UNDONE = 4  # times
_RECOGNISABLE = 25  # characters: a shorter secret would show too much of itself by its hint


def obfuscate(secret: str) -> str:
    """Return the form in which a long key may be seen: up to 4 characters `*`, to 12 the first 2, else 8 and 4."""
    length = len(secret)
    if length <= 4:
        return "*" * length
    if length <= 12:
        return secret[:2] + "*" * (length - 2)
    return f"{secret[:8]}...{secret[-4:]}"


def hint(secret: str) -> str:
    """Return the form in which a secret may be seen where it was not looked for: nothing of one that is short."""
    return obfuscate(secret) if len(secret) >= _RECOGNISABLE else HIDDEN


class Redactor:
    """Hides secrets in texts and in structures of them.

    Args:
        literals: Values that are hidden wherever they occur, whatever they look like; very short ones are ignored.
    """

    def __init__(self, literals: Iterable[str] = ()) -> None:
        self._literals: tuple[str, ...] = ()
        self.learn(literals)

    def learn(self, literals: Iterable[str]) -> None:
        """Hide these values too, from now on."""
        plain = (form for value in literals for form in (value, unescaped(value)))  # texts are read unescaped, too
        known = {value for value in (*self._literals, *plain) if len(value) >= _LEAST_LITERAL}
        self._literals = tuple(sorted(known, key=len, reverse=True))  # a secret that contains another goes first

    def text(self, text: str) -> str:
        """Return the text without secrets; of long keys a hint stays. Text without any comes back as it is.

        Where a secret shows only after escapes of addresses or JSON are undone, the text comes back without them.
        """
        text = self._hidden(text)
        if "%" in text or "\\u00" in text:
            plain = unescaped(text)
            hidden = self._hidden(plain)
            return text if hidden == plain else hidden
        return text

    def _hidden(self, text: str) -> str:
        for literal in self._literals:
            if literal in text:
                text = text.replace(literal, HIDDEN)
        lowered = text.lower()
        for clue in _CLUES:
            if clue in lowered:
                return self._patterns(text)
        return text

    def value(self, value: Any) -> Any:
        """Mask through dictionaries, lists and tuples; bytes are read as UTF-8; other values pass."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {key: HIDDEN if _is_secret_name(key) and item else self.value(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        if isinstance(value, bytes):
            return self.text(value.decode("utf-8", "backslashreplace"))
        return value

    @staticmethod
    def _patterns(text: str) -> str:
        if "@" in text:
            text = _without_passwords(text, _URL_USER, _last_at) if "://" in text else text
            text = _without_passwords(text, _DSN_USER, _last_host) if _DSN_HOST.search(text) else text
        text = _FIELDS.sub(lambda m: f"{m[1]}{m[2]}{m[3] or ''}{HIDDEN}" if m[4].strip() else m[0], text)
        text = _SCHEMES.sub(lambda m: m[1] + m[2] + _masked(m[3]), text)
        text = _KEY_SHAPES.sub(lambda m: _masked(m[0]), text)
        return _NAMED.sub(_hide_named, text)


def unescaped(text: str) -> str:
    """Return the text with printable ASCII in place of its escapes in addresses and JSON, also of escaped ones."""
    for _ in range(_ESCAPES_UNDONE):
        plain = _ESCAPED.sub(lambda found: chr(int(found[1] or found[2], 16)), text)
        if plain == text:
            break
        text = plain
    return text


def _masked(secret: str) -> str:
    """Return a hint of what looks like a key and is long enough, else nothing of it."""
    return hint(secret) if _KEY_SHAPES.match(secret) else HIDDEN


def _without_passwords(text: str, user: re.Pattern[str], password_end: Callable[[str, int, int], int]) -> str:
    """Hide what stands between a user's colon and the end that is found in the same word, once a word.

    Passwords hold "@" and ":" as well, so the first colon and the last end count.
    """
    kept, position = list[str](), 0
    while (found := user.search(text, position)) is not None:
        start = found.end()
        word_end = _WORD_END.search(text, start)
        end = word_end.start() if word_end is not None else len(text)
        hidden_to = password_end(text, start, end)
        if hidden_to > start:
            kept += (text[position:start], HIDDEN)
            position = hidden_to
        kept.append(text[position:end])
        position = end
    return "".join((*kept, text[position:]))


def _last_at(text: str, start: int, end: int) -> int:
    return text.rfind("@", start, end)


def _last_host(text: str, start: int, end: int) -> int:
    return max(text.rfind("@tcp(", start, end), text.rfind("@unix(", start, end))


def _hide_named(found: re.Match[str]) -> str:
    """Keep of `api_key=…` enough to recognise a long key by; of passwords and secrets nothing."""
    if HIDDEN in found[3] or "..." in found[3]:
        return found[0]
    return found[1] + found[2] + (_masked(found[3]) if found[1].lower().startswith("api") else HIDDEN)


def _is_secret_name(name: object) -> bool:
    """Whether a key of a structure names a value that is always hidden."""
    return isinstance(name, str) and name.lower().replace("-", "_") in _SECRET_NAMES


_SECRET_NAMES = frozenset(("authorization", "proxy_authorization", "cookie", "set_cookie", "password", "passwd"))

REDACTOR = Redactor()  # the process's own; `learn_settings` fills it


def redact(text: str) -> str:
    """`Redactor.text` of the process's redactor."""
    return REDACTOR.text(text)


def learn_settings(settings: Settings) -> None:
    """Hide the literal values of every secret setting that is set, keys in the base64 form that people paste."""
    REDACTOR.learn(_secrets(settings))


def _secrets(settings: Settings) -> Iterable[str]:
    for path, variable in variables().items():
        value = settings.value(path)
        if not variable.secret or not value:
            continue
        for item in value if isinstance(value, tuple) else (value,):
            yield base64.b64encode(item).decode() if isinstance(item, bytes) else str(item)
