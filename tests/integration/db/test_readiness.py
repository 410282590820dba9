"""Readiness says what requests meet."""

import json
import subprocess
import sys

import pytest
from support.databases import Database

from llm_proxy.db import check
from llm_proxy.db.errors import DatabaseAway

LOCKED = """
from gevent import monkey
monkey.patch_all()
import json, sys
from sqlalchemy import text
from llm_proxy.db import check
from llm_proxy.db.raw import RawConnectionPool
from llm_proxy.db.engine import create_engine
from llm_proxy.settings import Settings

engine = create_engine(Settings.from_paths(json.loads(sys.argv[1])).storage)
statements = RawConnectionPool(engine, 3, limit_s=0.25)
found = []

def ask():
    check.forget(engine)
    found.append(check.readiness(engine, statements.probe))

ask()
locks = {"postgresql": ("LOCK TABLE tokens IN EXCLUSIVE MODE", "LOCK TABLE tokens IN ACCESS EXCLUSIVE MODE")}
for lock in locks.get(engine.dialect.name, ("LOCK TABLES tokens WRITE",)):
    with engine.connect() as connection:
        connection.execute(text(lock))
        ask()
        if engine.dialect.name == "mysql":
            connection.execute(text("UNLOCK TABLES"))
ask()
print(json.dumps(found))
"""


@pytest.mark.parametrize("ready_database", ["postgres", "mysql"], indirect=True)
def test_a_locked_table_is_not_ready(ready_database: Database) -> None:
    """While tokens can be neither read nor counted, and while they cannot be counted; ready before and after."""
    command = [sys.executable, "-c", LOCKED, json.dumps(ready_database.values)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    first, *locked, last = json.loads(ran.stdout)
    assert (first, set(locked), last) == (None, {"database"}, None)


@pytest.mark.parametrize(("failures", "expected"), [(1, None), (4, None), (5, "database")], ids=["1", "4", "5"])
def test_failed_probes_are_repeated(ready_database: Database, failures: int, expected: str | None) -> None:
    """Connections that break now and then are no outage: requests are repeated as well."""
    engine = ready_database.engine()

    def meets() -> None:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise DatabaseAway("lost")

    check.forget(engine)
    assert check.readiness(engine, meets) == expected
