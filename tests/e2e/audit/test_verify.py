"""`audit verify` while real servers write: no false alarm, no fault missed, on each database by both programs."""

import json
import os
import signal
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from support.commands import run
from support.databases import Database
from support.gateway import MANAGEMENT_TOKEN, Gateway, running_gateway

from llm_proxy.audit.file_heads import file_heads
from llm_proxy.audit.verify import verify_table
from llm_proxy.audit.verify_file import verify_file
from llm_proxy.db.session import read_transaction

_ADMIN = {"Authorization": f"Bearer {MANAGEMENT_TOKEN}", "Content-Type": "application/json"}


def _call(served: Gateway, n: int) -> None:
    """A mutation, a mutation that is refused after its begin, a question, a refused bearer, a refused operator."""
    project = json.dumps({"name": f"p{n}", "api_key": "sk-a-provider-key-0123456789"}).encode()
    for _ in range(2):
        served.ask("POST", "/manage/projects", project, headers=_ADMIN)
    served.ask("GET", "/manage/projects", headers=_ADMIN)
    served.ask("GET", "/v1/models", headers={"Authorization": "Bearer sk-0123456789012345678901"})
    served.ask("GET", "/manage/projects", headers={"Authorization": "Bearer wrong"})


def test_servers_that_write_are_whole(ready_database: Database, tmp_path: Path) -> None:
    """Three workers under calls, one killed, the file renamed: verifying meanwhile and afterwards finds nothing wrong.

    Then each of four tamperings is named by the command, with its writer and number, and its exit code is 1.
    """
    variables = {**ready_database.environ(), "WEB_CONCURRENCY": "3"}
    log, engine = tmp_path / "data" / "audit.log", ready_database.engine()
    with running_gateway(tmp_path, "http://127.0.0.1:9", **variables) as served:
        calls = [threading.Thread(target=_try_each, args=(served, range(100 * k, 100 * k + 8))) for k in range(4)]
        for thread in calls:
            thread.start()
        rounds = 0
        while any(thread.is_alive() for thread in calls):
            assert verify_table(engine).faults == []
            if rounds == 3:
                os.kill(served.workers()[0], signal.SIGKILL)
            if rounds == 6:
                log.rename(log.with_name("audit.log.old"))
                os.kill(served.process.pid, signal.SIGUSR1)
            with read_transaction(engine) as connection:
                known = file_heads(connection)
            files = [path for path in (log.with_name("audit.log.old"), log) if path.exists()]
            assert verify_file(files, known).faults == []
            rounds += 1
        env = served.env
        live = _json(env)
        assert (live["whole"], live["without_chain"]) == (True, 0)
        assert live["writers"] >= 2, "each worker has its own chain"
    if ready_database.driver == "sqlite":  # what is named is the same on all, see the integration tests
        _tampering_is_named(env, engine, log)


def _try_each(served: Gateway, numbers: range) -> None:
    for number in numbers:
        with suppress(OSError):  # its worker was killed
            _call(served, number)


def _tampering_is_named(env: dict[str, str], engine: Any, log: Path) -> None:
    for program in ("llm-proxy", "flask"):
        assert run("audit", "verify", variables=env, program=program).returncode == 0
    kept = log.with_name("report.json")
    kept.write_text(json.dumps(_json(env)))
    assert _json(env, "--against", str(kept))["whole"] is True
    with engine.begin() as connection:
        most = "SELECT writer, max(seq) FROM audit_events GROUP BY writer ORDER BY max(seq) DESC LIMIT 1"
        writer, last = connection.execute(text(most)).one()
        connection.execute(text("DELETE FROM audit_events WHERE writer = :w AND seq = :s"), {"w": writer, "s": last})
    for program in ("llm-proxy", "flask"):
        done = run("audit", "verify", variables=env, program=program)
        assert (done.returncode, f"writer {writer} seq {last}: missing tail" in done.stdout) == (1, True), done.stdout
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM audit_events WHERE writer = :w AND seq = 2"), {"w": writer})
    assert f"writer {writer} seq 2: missing record" in run("audit", "verify", variables=env).stdout
    with engine.begin() as connection:
        connection.execute(text("UPDATE audit_events SET actor = 'x' WHERE writer = :w AND seq = 1"), {"w": writer})
    found = _json(env, code=1)
    assert [(fault["kind"], fault["writer"], fault["seq"]) for fault in found["faults"]] == [
        ("changed record", writer, 1)
    ]
    both = ("--file", str(log.with_name("audit.log.old")), "--file", str(log))
    assert _json(env, *both)["whole"] is True
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:-1]))
    gone = json.loads(lines[-1])
    done = run("audit", "verify", "--file", str(log), variables=env)
    assert (done.returncode, f"writer {gone['writer']} seq {gone['seq']}: missing tail" in done.stdout) == (1, True)
    part = run("audit", "verify", "--part", "--file", str(log.with_name("audit.log.old")), variables=env)
    assert (part.returncode, "cannot be seen" in part.stdout) == (0, True)


def _json(env: dict[str, str], *more: str, code: int = 0) -> Any:
    done = run("audit", "verify", "--json", *more, variables=env)
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def alone(tmp_path: Path) -> dict[str, str]:
    """Variables of a database of one's own that is not there."""
    return {"DATABASE_PATH": str(tmp_path / "none.db"), "AUDIT_LOG_FILE": str(tmp_path / "audit.log")}


def test_a_file_can_be_looked_at_without_a_database(alone: dict[str, str], tmp_path: Path) -> None:
    """It is proven as far as it goes, a missing tail is said to be out of sight, and no database is made."""
    log = Path(alone["AUDIT_LOG_FILE"])
    log.write_text('{"timestamp":"2026-01-01T00:00:00.000000Z","action":"old"}\n')
    done = run("audit", "verify", "--file", str(log), variables=alone)
    assert done.returncode == 0, done.stderr
    assert "1 records are in no chain" in done.stdout
    assert "A missing tail cannot be seen" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["audit.log"]
    assert run("audit", "verify", "--file", str(tmp_path / "nothing"), variables=alone).returncode == 1
    assert run("audit", "verify", variables=alone).returncode == 1
