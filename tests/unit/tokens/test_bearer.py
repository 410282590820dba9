"""The form of bearers and how they are shown."""

import base64

import pytest

from llm_proxy.redaction import Redactor
from llm_proxy.tokens.bearer import hint, hint_of_unknown, is_well_formed, new_bearer


def test_a_new_bearer_is_16_random_bytes() -> None:
    """`sk-` and 22 characters of unpadded base64url; no two alike."""
    made = {new_bearer() for _ in range(1000)}
    assert len(made) == 1000
    for bearer in made:
        assert is_well_formed(bearer)
        assert len(base64.urlsafe_b64decode(bearer[3:] + "==")) == 16


@pytest.mark.parametrize(
    "bearer",
    ["", "sk-", "sk-" + "a" * 21, "sk-" + "a" * 23, "SK-" + "a" * 22, "sk-" + "a" * 21 + "+", "sk-" + "a" * 22 + "\n",
     "sk-wt-" + "a" * 19 + "=", "sk-" + "ä" * 22],
)  # fmt: skip
def test_other_strings_are_no_bearers(bearer: str) -> None:
    """Length, alphabet and prefix are exact."""
    assert not is_well_formed(bearer)


@pytest.mark.parametrize(
    ("bearer", "shown"),
    [("sk-abcdefghijklmnopqrst", "sk-abcd" + "*" * 12 + "qrst"), ("sk-" + "a" * 22, "sk-aaaa" + "*" * 14 + "aaaa"),
     ("sk-12345678", "sk*********"), ("foreign-secret-value", "foreign-...alue"), ("abcd", "****"), ("", "")],
)  # fmt: skip
def test_a_hint_shows_only_the_ends(bearer: str, shown: str) -> None:
    """The prefixed form where there is enough to hide, else the generic one; never the string itself."""
    assert hint(bearer) == shown


@pytest.mark.parametrize(
    ("bearer", "shown"),
    [("sk-" + "a" * 22, "sk-aaaaa...aaaa"), ("Tr0ub4dor&3xyzQ9", "(16 characters)"),
     ("sk-" + "a" * 40, "(43 characters)")],
)  # fmt: skip
def test_an_unknown_secret_shows_its_length(bearer: str, shown: str) -> None:
    """What clients send by mistake may be the management token, of which no part is logged."""
    assert hint_of_unknown(bearer) == shown


def test_a_management_token_in_a_tokens_form_shows_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """The known secrets are compared first."""
    monkeypatch.setattr("llm_proxy.redaction.REDACTOR", Redactor(["sk-" + "b" * 22]))
    assert hint_of_unknown("sk-" + "b" * 22) == "(25 characters)"
