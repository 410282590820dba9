"""The text of a management key can be told from a typo without asking a server."""

import zlib

import pytest

from llm_proxy.access import secret


def test_a_key_has_16_random_characters_and_6_of_their_checksum() -> None:
    """The documented algorithm, written down a second time, accepts what is made."""
    for _ in range(200):
        made = secret.new_secret()
        assert made.startswith("mk-")
        assert len(made) == 25
        number = 0
        for digit in made[19:]:
            number = number * 62 + secret.DIGITS.index(digit)
        assert number == zlib.crc32(made[3:19].encode())
        assert secret.is_well_formed(made)
    assert secret.checksum("0000000000000000") == "2xwBRE"


@pytest.mark.parametrize("position", range(25))
def test_one_wrong_character_is_noticed(position: int) -> None:
    """Any single character that differs makes it ill-formed."""
    made = secret.new_secret()
    other = "a" if made[position] != "a" else "b"
    assert not secret.is_well_formed(made[:position] + other + made[position + 1 :])


@pytest.mark.parametrize(
    "text", ["", "mk-", "sk-0123456789abcdefghijkl", "mk-" + "0" * 21, "mk-" + "0" * 16 + "2xwBRE\n"]
)
def test_other_texts_are_not_keys(text: str) -> None:
    """Too short, another prefix, or a line end behind it."""
    assert not secret.is_well_formed(text)
