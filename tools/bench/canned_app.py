"""The application of the contestant "server layer alone": reads the body, answers without calling another server."""

from collections.abc import Callable, Iterable
from typing import Any

from payload import RESPONSE, RESPONSE_FIELDS

_BODY = RESPONSE.encode()
_FIELDS = [("Content-Type", "application/json"), ("Content-Length", str(len(_BODY))), *RESPONSE_FIELDS]


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """200 with the canned response."""
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start_response("200 OK", _FIELDS)
    return [_BODY]
