"""The model that a multipart form names."""

import pytest

from llm_proxy.usage.meter import _form_model

HEAD = b'Content-Disposition: form-data; name="file"; filename="name=model"\r\nX: y\r\n\r\nRIFF\r\n\r\nx'


@pytest.mark.parametrize(
    ("form", "model"),
    [
        (b'--b\r\n%s\r\n--b\r\nX: form-data; name="model"\r\n\r\nwhisper\r\n--b--\r\n' % HEAD, "whisper"),
        (b"--b\r\nContent-Disposition: form-data;name=model\r\nX: y\r\n\r\nm\r\n--b\r\n%s\r\n--b--" % HEAD, "m"),
        (b"--b\r\n%s\r\n--b--\r\n" % HEAD, None),
        (b'--b\r\nContent-Disposition: form-data; name="models"\r\n\r\nm\r\n--b--', None),
        (b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n\r\n--b--', None),
        (b"name=model", None),
        (b"", None),
    ],
)  # fmt: skip
def test_model_of_a_form(form: bytes, model: str | None) -> None:
    """The part's content, whatever stands in files and their names."""
    assert _form_model(form) == model
