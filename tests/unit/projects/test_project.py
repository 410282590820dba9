"""What may be shown of a provider's key."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.errors import BadRequest
from llm_proxy.projects.project import check_api_key, obfuscated


@pytest.mark.parametrize(
    ("key", "shown"),
    [("abcd", "****"), ("abcdefghijkl", "ab**********"), ("abcdefghijklm", "ab...lm"), ("a" * 17 + "xy", "aa...xy"),
     ("sk-1234567890123wxyz", "sk-12345...wxyz")],
)  # fmt: skip
def test_keys_are_obfuscated_by_length(key: str, shown: str) -> None:
    """Short keys show less."""
    assert obfuscated(key) == shown


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=13, max_size=200))
def test_eight_characters_stay_hidden(key: str) -> None:
    """From 13 characters on, at least 8 are not shown."""
    assert len(key) - len(obfuscated(key).replace("...", "", 1)) >= 8


def test_the_form_of_openai_keys_is_checked_where_it_is_asked_for() -> None:
    """VALIDATE_API_KEY_FORMAT: keys begin with `sk-`, and what else is wrong with one is said first."""
    assert check_api_key(" sk-abc ", wants_sk=True) == "sk-abc"
    assert check_api_key("abc", wants_sk=False) == "abc"
    for key, said in (("abc", "invalid API key format"), ("a b", "api_key contains invalid characters")):
        with pytest.raises(BadRequest, match=said):
            check_api_key(key, wants_sk=True)
