"""The dashboard and its refresh."""

from pathlib import Path
from typing import Any

import pytest
from support.databases import on_sqlite

from .conftest import Pages

pytestmark = on_sqlite


def test_a_refresh_leaves_no_record(pages: Pages) -> None:
    """A page that is left open for a day does not fill the audit trail; the first look is recorded."""

    def records() -> int:
        pages.app.services.audit.flush()
        with pages.app.services.engine.connect() as connection:
            return int(connection.exec_driver_sql("SELECT count(*) FROM audit_events").scalar_one())

    first = pages.get("/dashboard")
    assert "Recent audit events" in first.text
    before = records()
    refreshed = pages.get("/dashboard", headers={"HX-Request": "true"})
    assert (refreshed.status_code, 'id="overview"' in refreshed.text) == (200, True)
    assert records() == before
    pages.get("/dashboard")
    assert records() > before


class TestReplacedTemplates:
    """ADMIN_UI_TEMPLATE_DIR."""

    @pytest.fixture
    def more_settings(self, tmp_path: Path) -> dict[str, Any]:
        """One template is replaced."""
        folder = tmp_path / "templates"
        (folder / "keys").mkdir(parents=True)
        (folder / "keys/list.html").write_text(
            '{% extends "admin/layout.html" %}{% block content %}our keys{% endblock %}'
        )
        return {"operation.admin_ui_template_dir": folder}

    def test_a_template_of_the_same_name_is_shown(self, pages: Pages) -> None:
        """The folder's template is in the packaged frame; other pages are the packaged ones."""
        shown = pages.get("/keys").text
        assert "our keys" in shown
        assert "</nav>" in shown
        assert pages.get("/tokens").status_code == 200
