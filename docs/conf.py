"""Sphinx configuration of the documentation site (`tox -e docs`)."""

import re
from pathlib import Path

_root = Path(__file__).resolve().parent.parent
project = "llm-proxy"
author = "The llm-proxy authors"
copyright = "2026, The llm-proxy authors"
release = re.search(r'__version__ = "(.+)"', (_root / "llm_proxy" / "__init__.py").read_text()).group(1)

extensions = ["myst_parser", "sphinxcontrib.mermaid"]
source_suffix = {".md": "markdown"}
root_doc = "index"
exclude_patterns = ["_build"]
myst_heading_anchors = 4
myst_fence_as_directive = ["mermaid"]
nitpicky = True

html_theme = "furo"
html_title = f"llm-proxy {release}"
html_logo = "assets/llm-proxy.svg"
html_copy_source = False

_SOURCE = "https://github.com/sofatutor/llm-proxy/blob/main/"


def _link_to_sources(app: object, docname: str, source: list[str]) -> None:
    """Turn relative links that leave docs/ into links to the repository; they must name an existing file."""
    depth = "../" * docname.count("/")

    def to_repository(found: re.Match[str]) -> str:
        path = found["path"]
        if not (_root / path).exists():
            raise FileNotFoundError(f"{docname}: link to {path}, which does not exist")
        return f"]({_SOURCE}{path}{found['anchor'] or ''})"

    pattern = re.compile(rf"\]\({re.escape(depth)}\.\./(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
    source[0] = pattern.sub(to_repository, source[0])


def setup(app: object) -> None:
    """Register the source filter."""
    app.connect("source-read", _link_to_sources)  # type: ignore[attr-defined]
