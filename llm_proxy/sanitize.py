"""Texts of others, made harmless for where they are shown."""

import os
from collections.abc import Mapping
from typing import Final, TextIO

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def printable(text: str) -> str:
    """Without what a terminal would obey: `?` in place of each character that is not printed."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else "?" for character in text)


def spreadsheet_safe(text: str) -> str:
    """Return a cell that a spreadsheet does not run: what begins like a formula is quoted."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def wants_colour(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether escape sequences are welcome: a terminal that is not dumb, and NO_COLOR is unset or empty."""
    return stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
