"""What runs in their own processes: importable from anywhere, unlike a test module."""

from typing import Any

from llm_proxy.db import migrate
from llm_proxy.db.engine import create_engine
from llm_proxy.settings import Settings


def migrate_once(values: dict[str, Any], results: Any) -> None:
    """Migrate a database, and tell which revisions this process ran, or what went wrong."""
    engine = create_engine(Settings.from_paths(values).storage)
    try:
        results.put(migrate.up(engine, 60))
    except Exception as error:
        results.put(repr(error))
    engine.dispose()
