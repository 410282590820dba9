"""The dashboard and its refresh."""

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
