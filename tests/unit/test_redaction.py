"""Secrets do not pass the redaction layer, and ordinary text does unharmed."""

from collections.abc import Callable

import pytest

from llm_proxy.redaction import Redactor, learn_settings, obfuscate
from llm_proxy.settings import load

BEARER = "sk-AbCdEfGhIjKlMnOpQrStUv"
KEY = "sk-proj-0123456789_abcdefghij-KLMN"


@pytest.mark.parametrize(
    ("secret", "shown"),
    [("", ""), ("abcd", "****"), ("abcde", "ab***"), ("abcdefghijkl", "ab**********"), (BEARER, "sk-AbCdE...StUv")],
)
def test_obfuscation_has_three_lengths(secret: str, shown: str) -> None:
    """The length decides how much is shown."""
    assert obfuscate(secret) == shown


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"Authorization: Bearer {BEARER}", BEARER),
        (f"authorization: bearer {KEY}", KEY),
        ("{'Authorization': 'Bearer opaque.token.value'}", "opaque.token.value"),
        ("('AUTHORIZATION', 'Basic dXNlcjpwYXNz')", "dXNlcjpwYXNz"),
        ("b'Authorization: Bearer opaque-value'", "opaque-value"),
        (f"the key {KEY} was refused", KEY),
        (f"GET /v1/models?key={BEARER}", BEARER),
        ("Cookie: session=very-secret; other=1", "very-secret"),
        ("Set-Cookie: session=very-secret; Path=/", "very-secret"),
        ("postgresql://user:pa@ss:w0rd@db.example:5432/x", "w0rd"),
        ("user:p@ss(word@tcp(db.example:3306)/x", "ss(word"),
        ("redis://:hidden-one@cache:6379/0", "hidden-one"),
        ('{"api_key": "opaque-provider-key"}', "opaque-provider-key"),
        ("password=hunter2hunter2", "hunter2hunter2"),
        ("a://x:y a://u:s3cret@h", "s3cret"),
        ("http://h/v1 mysql+pymysql://u:s3cret@h/?b=c://d:e", "s3cret"),
        ("u:o@ne@unix(/tmp/s) v:t:wo@tcp(h)", "t:wo"),
        ("Bearer hunter2hunter2", "hunter2h"),
        ("api_key=hunter2hunter2hun", "hunter2h"),
        ("sk-hunter2hunter2", "hunter2h"),
        ("AIzaSyA0123456789abcdefghijklmnop", "AIzaSyA0123456789abcdefghijklmnop"),
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str, secret: str) -> None:
    """Whatever stands around it."""
    assert secret not in Redactor().text(text)


@pytest.mark.parametrize(
    "text",
    [
        "request completed",
        "/v1/chat/completions",
        "the task-sk- list of a desk-top",
        "01a210d4-1132-7c9e-87b6-07b56a03f000",
        "sk-AbCd**************StUv",
        "mail to someone@example.org",
        "http://127.0.0.1:8080/ready",
        "no cookie was sent",
    ],
)
def test_ordinary_text_passes(text: str) -> None:
    """Ids, hints, addresses and words stay as they are."""
    assert Redactor().text(text) == text


@pytest.mark.parametrize(
    "spell",
    [
        lambda text: "".join(f"%{ord(c):02x}" for c in text),
        lambda text: "".join(f"%25{ord(c):02X}" for c in text),
        lambda text: text.replace("-", "%252d"),
        lambda text: "".join(f"\\u{ord(c):04x}" for c in text),
        lambda text: text.replace("-", "\\\\u002D"),
    ],
    ids=["percent", "percent twice", "one character", "JSON", "JSON in JSON"],
)
@pytest.mark.parametrize("secret", [BEARER, KEY, "plain-words-token"])
def test_what_is_escaped_is_hidden_too(secret: str, spell: Callable[[str], str]) -> None:
    """A path or user agent that spells a secret by escapes shows the hint of it at most."""
    from llm_proxy.redaction import unescaped

    shown = Redactor(["plain-words-token"]).text(f"/v1/files/{spell(secret)}/a%20b")
    assert secret[8:-4] not in unescaped(shown)


def test_escapes_without_a_secret_stay() -> None:
    """The line shows what was asked for."""
    assert Redactor().text("/v1/files/a%2Fb%20\\u0041%ff") == "/v1/files/a%2Fb%20\\u0041%ff"


def test_structures_are_walked() -> None:
    """Dictionaries, lists and bytes; names that always hide their value."""
    value = {"a": [f"Bearer {BEARER}", 1, None], "password": "short", "raw": KEY.encode(), "n": {"Cookie": "x"}}
    assert Redactor().value(value) == {
        "a": ["Bearer sk-AbCdE...StUv", 1, None],
        "password": "***",
        "raw": "sk-proj-...KLMN",
        "n": {"Cookie": "***"},
    }


def test_literal_values_of_settings_are_hidden() -> None:
    """Whatever they look like, keys in their base64 form."""
    import base64

    key = base64.b64encode(b"k" * 32).decode()
    settings = load({"MANAGEMENT_TOKEN": "plain-words-token", "ENCRYPTION_KEY": key}).settings
    learn_settings(settings)
    from llm_proxy.redaction import redact

    assert redact(f"a plain-words-token b {key} c") == "a *** b *** c"


@pytest.mark.parametrize("escapes", [0, 1, 2])
def test_a_literal_that_holds_escapes_is_hidden_however_they_are_escaped(escapes: int) -> None:
    """A password of an address may be written with `%41`, and its text escaped once more."""
    secret = "pa%41ss-word"
    assert "ss-word" not in Redactor([secret]).text(f"at {secret.replace('%', '%25' if escapes else '%')} x")
    assert "ss-word" not in Redactor([secret]).text(f"at {secret.replace('%', '%' + '25' * escapes)} x")
