"""The revisions as the names of their files tell them."""

from llm_proxy.db import migrate
from llm_proxy.db.revisions import scripts


def test_the_names_of_the_files_are_the_revisions() -> None:
    """In the order in which Alembic runs them, with its head last."""
    run_last_first = [script.revision for script in scripts().walk_revisions()]
    assert list(migrate.revisions()) == run_last_first[::-1]
    assert migrate.head() == int(scripts().get_current_head() or "")
