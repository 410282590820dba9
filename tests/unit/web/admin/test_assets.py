"""Versions of packaged files: no address makes the server read another file."""

import hashlib
from pathlib import Path

import pytest
from flask import Flask

from llm_proxy.web.admin import assets
from llm_proxy.web.admin.assets import asset, is_versioned

STATIC = Path(assets.__file__).parent / "static"


@pytest.fixture
def app() -> Flask:
    """The one route that the module needs."""
    app = Flask(__name__, static_folder=None)
    app.add_url_rule("/static/<path:filename>", "admin.static")
    return app


def digest(path: Path) -> str:
    """Return the version of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def test_the_address_of_a_file_is_its_version(app: Flask) -> None:
    """It is recognised; another version, and none, are not."""
    with app.test_request_context("/"):
        address = asset("admin.css")
    assert address == f"/static/admin.css?v={digest(STATIC / 'admin.css')}"
    for path, expected in ((address, True), ("/static/admin.css?v=old", False), ("/static/admin.css", False)):
        with app.test_request_context(path):
            assert is_versioned() is expected, path


@pytest.mark.parametrize(
    "name",
    ["../assets.py", "vendor/../../assets.py", str(Path(assets.__file__)).lstrip("/"), "a\0b", "n" * 300, "vendor"],
    ids=["above", "above-vendor", "absolute", "nul", "too-long", "folder"],
)
def test_no_other_file_is_read(app: Flask, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even one whose digest the request knows; a name that no file can have is no failure."""
    monkeypatch.setattr(assets, "_digest", lambda name: pytest.fail(f"read {name}"))
    for form in (name, f"/{name}"):
        with app.test_request_context("/", query_string={"v": digest(Path(assets.__file__))}) as context:
            context.request.view_args = {"filename": form}
            assert not is_versioned()
