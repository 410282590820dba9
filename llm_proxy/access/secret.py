"""The text of a management key: `mk-`, 16 random base62 characters, and 6 that are their checksum.

The checksum is the CRC-32 of the 16 characters in ASCII (the polynomial of zlib, gzip and PNG), written as a base62
number with the digits 0-9, A-Z, a-z, most significant first, padded with `0` to 6. Scanners and forms can therefore
tell a key from a typo without asking a server.
"""

import re
import secrets
import zlib

from llm_proxy.crypto import digest

PREFIX = "mk-"
DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
RANDOM_CHARACTERS = 16  # 95 bits
CHECKSUM_CHARACTERS = 6  # 62**6 > 2**32
_FORM = re.compile(rf"mk-([0-9A-Za-z]{{{RANDOM_CHARACTERS}}})([0-9A-Za-z]{{{CHECKSUM_CHARACTERS}}})")


def new_secret() -> str:
    """Return a new key."""
    random = "".join(secrets.choice(DIGITS) for _ in range(RANDOM_CHARACTERS))
    return PREFIX + random + checksum(random)


def checksum(random: str) -> str:
    """Return the 6 characters that follow these 16."""
    number, digits = zlib.crc32(random.encode("ascii")), ""
    for _ in range(CHECKSUM_CHARACTERS):
        number, digit = divmod(number, len(DIGITS))
        digits = DIGITS[digit] + digits
    return digits


def is_well_formed(text: str) -> bool:
    """Whether the text has the form of a key and its checksum is right."""
    found = _FORM.fullmatch(text)
    return found is not None and checksum(found[1]) == found[2]


def stored(secret: str) -> str:
    """Return the form in which a key is stored and looked up. A key has 95 random bits: a plain hash is enough."""
    return digest(secret)
