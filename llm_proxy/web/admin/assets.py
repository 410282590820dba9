"""Addresses of the packaged files, with a version, so that browsers may keep them for long."""

import hashlib
import os
from functools import lru_cache
from importlib.resources import files
from typing import Final

from flask import request, url_for
from werkzeug.security import safe_join

_PACKAGE: Final = "llm_proxy.web.admin"
FOR_LONG: Final = "public, max-age=31536000, immutable"


def asset(name: str) -> str:
    """Return the versioned address of a packaged file."""
    return url_for("admin.static", filename=name, v=_digest(name))


def is_versioned() -> bool:
    """Whether the request names the version of a packaged file that is served now. Reads no other file."""
    name = (request.view_args or {}).get("filename", "")
    path = safe_join(str(files(_PACKAGE).joinpath("static")), name)
    return path is not None and os.path.isfile(path) and request.args.get("v") == _digest(name)


@lru_cache(maxsize=64)
def _digest(name: str) -> str:
    return hashlib.sha256(files(_PACKAGE).joinpath("static", name).read_bytes()).hexdigest()[:12]
