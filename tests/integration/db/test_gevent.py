"""Under gevent no database call stops the event loop (issue 5.1). Each in a process that is patched."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.databases import Database

pytestmark = pytest.mark.times

PROLOGUE = """
from gevent import monkey
monkey.patch_all()
import json, sys, time
import gevent
from sqlalchemy import text
from llm_proxy.settings import Settings, StorageSettings
from llm_proxy.db.engine import create_engine
from llm_proxy.db.raw import RawConnectionPool

values = json.loads(sys.argv[1])
engine = create_engine(Settings.from_paths(values).storage)
gaps = []

def tick():
    last = time.monotonic()
    while True:
        gevent.sleep(0.01)
        now = time.monotonic()
        gaps.append(now - last)
        last = now
"""

SLOW = """
def ask():
    with engine.connect() as connection:
        connection.execute(text(values_slow))

with engine.connect() as connection:
    connection.execute(text("SELECT 1"))
values_slow = {"postgresql": "SELECT pg_sleep(1)", "mysql": "SELECT sleep(1)"}[engine.dialect.name]
gevent.spawn(tick)
gevent.sleep(0.05)
began = time.monotonic()
gevent.joinall([gevent.spawn(ask) for _ in range(8)], raise_error=True)
print(json.dumps({"took": time.monotonic() - began, "gap": max(gaps)}))
"""

CONNECTING = """
import socket
silent = socket.create_server(("127.0.0.1", 0))
port = silent.getsockname()[1]
forms = {"postgresql": f"postgres://u:p@localhost:{port}/d?sslmode=disable&connect_timeout=1",
         "mysql": f"u:p@tcp(localhost:{port})/d?timeout=1s&readTimeout=1s"}
engine = create_engine(StorageSettings(url=forms[engine.dialect.name]))
gevent.spawn(tick)
gevent.sleep(0.05)
began = time.monotonic()
try:
    engine.connect()
    said = "connected"
except Exception as error:
    from llm_proxy.db.errors import is_unavailable
    said = str(is_unavailable(error))
print(json.dumps({"took": time.monotonic() - began, "gap": max(gaps), "said": said}))
"""

SILENT = """
from llm_proxy.db import postgres
postgres.LONGEST_SILENCE_S = 0.3
from llm_proxy.db.engine import unhurried
from llm_proxy.db.errors import is_unavailable
began = time.monotonic()
try:
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_sleep(1)"))
    said = "answered"
except Exception as error:
    said = str(is_unavailable(error))
took = time.monotonic() - began
with unhurried(engine).connect() as connection:
    connection.execute(text("SELECT pg_sleep(1)"))
with engine.connect() as connection:
    assert connection.execute(text("SELECT 1")).scalar() == 1
print(json.dumps({"said": said, "took": took}))
"""

HELD = """
statements = RawConnectionPool(engine, limit_s=0.25, lock_limit_s=2.0)
statements.read("SELECT 1", ())
holder = __import__("sqlite3").connect(values["storage.path"], isolation_level=None, timeout=0)
holder.execute("BEGIN IMMEDIATE")
gevent.spawn(tick)
gevent.spawn_later(0.5, holder.execute, "ROLLBACK")
gevent.sleep(0.05)
began = time.monotonic()
from llm_proxy.db.session import write_transaction
def write():
    with write_transaction(engine) as connection:
        connection.execute(text("UPDATE instance SET id = id"))
waiting = [gevent.spawn(write), gevent.spawn(statements.write, "UPDATE instance SET id = id", ())]
reading = time.monotonic()
statements.read("SELECT count(*) FROM instance", ())
reading = time.monotonic() - reading
gevent.joinall(waiting, raise_error=True)
print(json.dumps({"took": time.monotonic() - began, "gap": max(gaps), "reading": reading}))
"""

LONG = """
from llm_proxy.db.engine import off_loop
from llm_proxy.db.session import read_transaction, write_transaction
beside = off_loop(engine)
numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000000) SELECT count(*) FROM n"

def count():
    with read_transaction(beside) as connection:
        return connection.execute(text(numbers)).scalar_one()

with write_transaction(beside) as connection:
    connection.execute(text("UPDATE instance SET id = id"))
gevent.spawn(tick)
gevent.sleep(0.05)
began = time.monotonic()
counted = count()
took = time.monotonic() - began
killed = gevent.spawn(count)
gevent.sleep(0.05)
killed.kill()
with write_transaction(beside) as connection:
    connection.execute(text("UPDATE instance SET id = id"))
print(json.dumps({"took": took, "gap": max(gaps), "counted": counted}))
"""


def _run(program: str, database: Database, folder: Path) -> dict[str, Any]:
    path = folder / "program.py"
    path.write_text(PROLOGUE + program)
    done = subprocess.run(
        [sys.executable, str(path), json.dumps(database.values)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("ready_database", ["postgres", "mysql"], indirect=True)
def test_slow_queries_run_side_by_side(ready_database: Database, tmp_path: Path) -> None:
    """Eight queries of a second on one process take a second, and a ticking greenlet misses no beat."""
    found = _run(SLOW, ready_database, tmp_path)
    assert found["took"] < 4
    assert found["gap"] < 0.5


@pytest.mark.parametrize("ready_database", ["postgres", "mysql"], indirect=True)
def test_a_silent_server_is_given_up(ready_database: Database, tmp_path: Path) -> None:
    """A server that accepts and says nothing: the connect limit holds, the loop runs on, it counts as away."""
    found = _run(CONNECTING, ready_database, tmp_path)
    assert found["said"] == "True"
    assert 0.5 < found["took"] < 5
    assert found["gap"] < 0.5


@pytest.mark.parametrize("ready_database", ["postgres"], indirect=True)
def test_a_server_that_hangs_is_given_up(ready_database: Database, tmp_path: Path) -> None:
    """Silence past the bound ends the statement and its connection; long work is waited for; the pool is whole."""
    found = _run(SILENT, ready_database, tmp_path)
    assert found["said"] == "True"
    assert found["took"] < 0.95


@pytest.mark.parametrize("ready_database", ["sqlite"], indirect=True)
def test_a_held_sqlite_lock_is_waited_for_in_gevent(ready_database: Database, tmp_path: Path) -> None:
    """Writers wait for another's lock without stopping the loop, readers do not wait at all."""
    found = _run(HELD, ready_database, tmp_path)
    assert 0.4 < found["took"] < 5
    assert found["gap"] < 0.3
    assert found["reading"] < 0.3


@pytest.mark.parametrize("ready_database", ["sqlite"], indirect=True)
def test_long_work_on_sqlite_stops_no_request(ready_database: Database, tmp_path: Path) -> None:
    """A statement that runs for long in the engine for long work leaves the loop alone, also when it is killed."""
    found = _run(LONG, ready_database, tmp_path)
    assert found["counted"] == 3_000_000
    assert found["gap"] < found["took"] / 2
