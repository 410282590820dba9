"""Addresses of the packaged files, with a version, so that browsers may keep them for long."""

import hashlib
from functools import lru_cache
from importlib.resources import files

from flask import url_for


def asset(name: str) -> str:
    """Return the versioned address of a packaged file."""
    return url_for("admin.static", filename=name, v=_digest(name))


@lru_cache(maxsize=64)
def _digest(name: str) -> str:
    return hashlib.sha256(files("llm_proxy.web.admin").joinpath("static", name).read_bytes()).hexdigest()[:12]
