"""What the jump box takes for a credential, and so puts into no address."""

import pytest

from llm_proxy.tokens.bearer import found_in
from llm_proxy.web.admin.jump import is_secret

TOKEN = "sk-" + "Ab3_-" * 4 + "xy"


@pytest.mark.parametrize(
    "text",
    [
        TOKEN,
        f"Authorization: Bearer {TOKEN}",
        f'"{TOKEN}"',
        "export KEY=sk-proj-abcdef",
        "mk-0123456789abcdefghijk",
        "eyJhbGciOiJIUzI1NiJ9.e30.c2ln",
        "0123456789abcdef0123456789abcdef0123",
    ],
)
def test_credentials_are_told_from_names(text: str) -> None:
    """With what is pasted around them."""
    assert is_secret(text)


@pytest.mark.parametrize(
    "text", ["search", "n" * 255, "فريق البحث", "task-force", "team 7, billing and invoices of the south"]
)
def test_names_are_no_credentials(text: str) -> None:
    """Long ones and one-word ones neither."""
    assert not is_secret(text)


def test_a_token_is_found_in_what_was_pasted() -> None:
    """The first one; None without one."""
    assert found_in(f"Authorization: Bearer {TOKEN}\r\n") == TOKEN
    assert found_in("nothing here") is None
