"""What stands at the admin UI's path in a version without one."""

from flask import Blueprint, Response

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>llm-proxy</title></head>
<body><h1>The admin UI is not part of this version</h1>
<p>Projects and tokens are managed with <code>llm-proxy manage</code> or the API under <code>/manage</code>.</p>
</body></html>
"""


def blueprint(path: str) -> Blueprint:
    """503 for the path and everything below it."""
    bp = Blueprint("admin_placeholder", __name__)

    def page(rest: str = "") -> Response:
        return Response(_PAGE, status=503, content_type="text/html; charset=utf-8")

    bp.add_url_rule(path, "page", page)
    bp.add_url_rule(f"{path}/", "page_below", page)
    bp.add_url_rule(f"{path}/<path:rest>", "pages", page)
    return bp
