"""The model that a request names, where its response names none."""

from types import SimpleNamespace
from typing import Any

import pytest

from llm_proxy.usage.meter import Metered

FORM, JSON = "multipart/form-data; boundary=b", "application/json"
FILE = b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\nRIFF\r\n\r\nx'
MODEL = b'Content-Disposition: form-data; name="model"\r\n\r\n%s'


def form(*parts: bytes) -> bytes:
    return b"".join(b"--b\r\n%s\r\n" % part for part in parts) + b"--b--\r\n"


@pytest.mark.parametrize(
    ("content_type", "body", "model"),
    [
        (FORM, form(FILE, MODEL % b"whisper"), "whisper"),
        ("Multipart/Form-Data; boundary=b", form(MODEL.replace(b'"model"', b"model") % b"m", FILE), "m"),
        (FORM, form(FILE), None),
        (FORM, form(FILE.replace(b"RIFF", MODEL % b"none")), None),
        (FORM, form(MODEL % b"m", FILE)[:-30], "m"),
        (FORM, form(MODEL % b""), None),
        (FORM, b"name=model", None),
        ("multipart/form-data", form(MODEL % b"m"), None),
        (FORM, b"", None),
        ("application/x-www-form-urlencoded", b"a=1&model=gpt%2D4", "gpt-4"),
        (JSON, b'{"messages":[],"model":"gpt-4"}', "gpt-4"),
        (JSON, b'{"MODEL":"gpt-4"}', "gpt-4"),
        (JSON, b'{"model":"gpt-4","messages":["cut', "gpt-4"),
        (JSON, b'{"model":4}', None),
        ("text/plain", b'{"model":"gpt-4"} {}', "gpt-4"),
        ("", b"model", None),
    ],
)
def test_the_model_that_a_request_names(content_type: str, body: bytes, model: str | None) -> None:
    """By the reader of the allow-lists, whatever stands in files, and as far as the body is there."""
    token: Any = SimpleNamespace()
    metered = Metered(token, "POST", "/v1/x", content_type)
    metered.request_data(body)
    assert metered.model() == model


def test_a_model_behind_a_long_file() -> None:
    """A form's last piece is kept, because that is where clients put it."""
    token: Any = SimpleNamespace()
    metered = Metered(token, "POST", "/v1/audio/transcriptions", FORM)
    body = form(FILE + b"x" * 1_000_000, MODEL % b"whisper")
    for start in range(0, len(body), 65536):
        metered.request_data(body[start : start + 65536])
    assert metered.model() == "whisper"
