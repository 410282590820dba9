"""An application with a middleware around `wsgi_app`, as in Flask's documentation or by OpenTelemetry."""

import json
from pathlib import Path

from e2e.proxy.conftest import CHAT, STREAM
from support.gateway import eventually, running_gateway
from support.provider import Provider

MODULE = """
import json
from flask import request
from llm_proxy.wsgi import app

class Middleware:
    def __init__(self, wrapped):
        self._wrapped = wrapped

    def __call__(self, environ, start_response):
        told = [environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["HTTP_USER_AGENT"], environ["SERVER_PORT"]]
        with open("requests.jsonl", "a") as out:
            print(json.dumps(told), file=out)
        return self._wrapped(environ, start_response)

def see():
    with open("hooks.txt", "a") as out:
        print(request.path, file=out)

app.before_request(see)
app.wsgi_app = Middleware(app.wsgi_app)
"""


def test_each_request_goes_through_a_middleware(tmp_path: Path, provider: Provider) -> None:
    """With a whole environment and Flask's hooks; the log says that the fast lane is off, once."""
    (tmp_path / "traced.py").write_text(MODULE)
    with running_gateway(tmp_path, provider.url, app="traced:app") as gateway:
        token = gateway.token()
        for content in (CHAT, STREAM):
            status, _, body = gateway.ask(
                "POST",
                "/v1/chat/completions",
                content,
                token=token,
                headers={"Content-Type": "application/json", "User-Agent": "seen/1"},
            )
            assert status == 200, body
        eventually(lambda: gateway.request_count(token) == 2)
    told = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    assert told.count(["POST", "/v1/chat/completions", "seen/1", str(gateway.port)]) == 2
    assert (tmp_path / "hooks.txt").read_text().splitlines().count("/v1/chat/completions") == 2
    assert gateway.output().count("wsgi_app is wrapped by traced.Middleware") == 1
