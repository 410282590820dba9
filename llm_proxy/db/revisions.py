"""Alembic, imported only where a revision is run or looked into: it takes a fifth of a start's time."""

from importlib import resources

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection


def run(connection: Connection, step: str, target: str) -> None:
    """Run revisions on this connection: `step` is upgrade or downgrade. Raises whatever a revision raises."""
    config = _config()
    config.attributes["connection"] = connection
    (command.upgrade if step == "upgrade" else command.downgrade)(config, target)


def parts_of(revision: str) -> tuple[str, ...]:
    """Return the tables and columns, as TABLE or TABLE.COLUMN, that the revision made."""
    found = scripts().get_revision(revision)
    parts: tuple[str, ...] = getattr(found.module, "HOLDS", ()) if found else ()
    return parts


def scripts() -> ScriptDirectory:
    """Return Alembic's view of the revisions."""
    return ScriptDirectory.from_config(_config())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(resources.files("llm_proxy.db") / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
