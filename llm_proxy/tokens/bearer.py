"""The string that a client presents: how it is made, told from other strings, and shown."""

import base64
import re
import secrets

from llm_proxy.redaction import HIDDEN, obfuscate, redact

PREFIX = "sk-"
_FORM = re.compile(r"sk-[A-Za-z0-9_-]{22}")  # 22 characters of base64url are 16 bytes
_WITHIN = re.compile(rf"(?<![A-Za-z0-9_-]){_FORM.pattern}(?![A-Za-z0-9_-])")
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


def is_in(text: str) -> bool:
    """Whether a string of that form stands anywhere in a text."""
    return PREFIX in text and _WITHIN.search(text) is not None


def tokens_in(text: str) -> list[str]:
    """Return the strings of that form in a text."""
    return _WITHIN.findall(text)


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
