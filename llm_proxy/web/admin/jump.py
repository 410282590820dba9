"""The jump box: from a name or id to its page."""

from flask import Blueprint, redirect, request, url_for
from werkzeug.wrappers import Response

from llm_proxy.errors import ResourceNotFound
from llm_proxy.web.admin import frame


def routes(bp: Blueprint) -> None:
    """Add the route."""

    @bp.post("/jump")
    def jump() -> Response:
        """303 to the project of that id, else to the projects whose name contains the text."""
        wanted = request.form.get("q", "").strip()
        try:
            found = frame.api("GET", f"/manage/projects/{wanted}") if wanted and "/" not in wanted else None
        except ResourceNotFound:
            found = None
        if found is not None:
            return redirect(url_for("admin.projects_show", project_id=found.data["id"]), 303)
        return redirect(url_for("admin.projects", search=wanted or None), 303)
