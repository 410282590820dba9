"""Texts of others, made harmless for where they are shown."""

from typing import Final

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def printable(text: str) -> str:
    """Without what a terminal would obey: `?` in place of each character that is not printed."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else "?" for character in text)


def spreadsheet_safe(text: str) -> str:
    """A cell that a spreadsheet does not run: what begins like a formula is quoted."""
    return f"'{text}" if text.startswith(_FORMULA) else text
