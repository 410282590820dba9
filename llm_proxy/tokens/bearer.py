"""The string that a client presents: how it is made, told from other strings, and shown."""

import base64
import binascii
import re
import secrets
from collections.abc import Iterable
from urllib.parse import unquote

from llm_proxy.redaction import HIDDEN, obfuscate, redact

PREFIX = "sk-"
_FORM = re.compile(r"sk-[A-Za-z0-9_-]{22}")  # 22 characters of base64url are 16 bytes
_WITHIN = re.compile(rf"(?<![A-Za-z0-9_-]){_FORM.pattern}(?![A-Za-z0-9_-])")
_CODED = re.compile(r"[A-Za-z0-9+/_-]{34,}")  # base64 of a token, or of more
_CODED_PREFIXES = ("c2st", "NrL", "zay")  # what every base64 of `sk-` contains, by its place among three bytes
_ESCAPES = ("%73", "%6b", "%6B", "%2d", "%2D", "%25")  # one of them is needed to spell `sk-` without itself
_MOST_ESCAPED = 2  # times
_URL_SAFE = str.maketrans("-_", "+/")
_RANDOM_BYTES = 16
_SHOWN = 4  # at each end


def new_bearer() -> str:
    """Return a bearer of 128 random bits; nothing in it tells when or where it was made."""
    return PREFIX + base64.urlsafe_b64encode(secrets.token_bytes(_RANDOM_BYTES)).decode().rstrip("=")


def is_well_formed(bearer: str) -> bool:
    """Return whether the text has the form of a token; if not, the database is not asked."""
    return _FORM.fullmatch(bearer) is not None


def found_in(text: str) -> str | None:
    """Return the first string of that form in a text, such as in a pasted header; None without one."""
    found = _WITHIN.search(text)
    return None if found is None else found[0]


def may_hold(text: str) -> bool:
    """Return whether `tokens_in` may find anything; takes a tenth of its time."""
    return PREFIX in text or _is_coded(text) or ("%" in text and any(code in text for code in _ESCAPES))


def is_in(text: str) -> bool:
    """Return whether a string of that form stands anywhere in a text, also coded."""
    return may_hold(text) and bool(tokens_in(readings(text)))


def tokens_in(texts: Iterable[str]) -> list[str]:
    """Return the strings of that form in the readings of a text."""
    return [token for text in texts for token in _WITHIN.findall(text)]


def holds(text: str, bearer: str) -> bool:
    """Return whether a text contains this bearer, whatever stands around it; coded or not."""
    return may_hold(text) and any(bearer in reading for reading in readings(text))


def _is_coded(text: str) -> bool:
    return any(prefix in text for prefix in _CODED_PREFIXES)


def readings(text: str) -> list[str]:
    """Return a text, and what it decodes to: percent-encoded once or twice, or base64 anywhere in it (RFC 7617 §2)."""
    found = [text]
    while "%" in text and len(found) <= _MOST_ESCAPED and (plain := unquote(text)) != text:
        found.append(text := plain)
    if _is_coded(text):
        found += [_decoded(run[start:]) for run in _CODED.findall(text) for start in range(4)]
    return found


def _decoded(run: str) -> str:
    """Return what base64 of either alphabet stands for; the rest of an odd end is left out."""
    whole = run[: len(run) - (len(run) % 4 == 1)]
    try:
        return base64.b64decode(whole.translate(_URL_SAFE) + "==", validate=False).decode("latin-1")
    except binascii.Error:
        return ""


def hint(bearer: str) -> str:
    """Return what listings show of a bearer; other strings, and too short ones, in the generic form."""
    rest = bearer[len(PREFIX) :]
    if not bearer.startswith(PREFIX) or len(rest) <= 2 * _SHOWN:
        return obfuscate(bearer)
    return PREFIX + rest[:_SHOWN] + "*" * (len(rest) - 2 * _SHOWN) + rest[-_SHOWN:]


def hint_of_unknown(bearer: str) -> str:
    """Return what logs show of a bearer that is no token: a hint if it has a token's form, else its length.

    Clients send other secrets by mistake, so nothing of them is shown.
    """
    if is_well_formed(bearer) and redact(bearer) != HIDDEN:
        return obfuscate(bearer)
    return f"({len(bearer)} characters)"
