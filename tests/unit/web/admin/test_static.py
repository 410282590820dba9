"""Vendored front-end files are what their list says: name, version, licence, hash."""

import hashlib
import json
from importlib.resources import files

import pytest

FOLDER = files("llm_proxy.web.admin").joinpath("static", "vendor")
LISTED = json.loads(FOLDER.joinpath("vendored.json").read_text())


@pytest.mark.parametrize("entry", LISTED, ids=[entry["file"] for entry in LISTED])
def test_file_has_the_listed_hash_and_licence(entry: dict[str, str]) -> None:
    """The file is unchanged, and the text of its licence lies beside it."""
    assert hashlib.sha256(FOLDER.joinpath(entry["file"]).read_bytes()).hexdigest() == entry["sha256"]
    assert FOLDER.joinpath(entry["licence_file"]).read_text().strip()
    assert all(entry[name] for name in ("package", "version", "licence"))


def test_every_vendored_file_is_listed() -> None:
    """No file without a line in the list."""
    there = {each.name for each in FOLDER.iterdir()} - {"vendored.json"}
    assert there == {entry["file"] for entry in LISTED} | {entry["licence_file"] for entry in LISTED}
