"""Several accounting workers on one database, and what the provider's log says of them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, text
from support.databases import Database

from llm_proxy.accounting.ledger import files, folder_of
from llm_proxy.accounting.reconcile import Line, compare, noted
from llm_proxy.crypto import digest
from llm_proxy.db.types import to_column
from llm_proxy.tokens.bearer import new_bearer


@dataclass(frozen=True)
class Token:
    """A stored token."""

    id: str
    bearer: str
    max_requests: int | None


class Worker:
    """One process."""

    def __init__(self, about: dict[str, Any]) -> None:
        environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        command = [sys.executable, "-m", "support.quota_worker_main", json.dumps(about)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ, text=True, bufsize=1
        )

    @property
    def is_running(self) -> bool:
        """Whether it was not killed."""
        return self.process.poll() is None

    def tell(self, do: str, **arguments: Any) -> None:
        """Start a command."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self.process.stdin.flush()

    def reply(self) -> dict[str, Any]:
        """The response to the oldest command that has not been answered."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"worker {self.process.pid} has died: {self.process.poll()}"
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Command and response."""
        self.tell(do, **arguments)
        return self.reply()

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()
        self._close()

    def stop(self) -> None:
        """SIGSTOP."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Let it settle and end by itself."""
        if self.is_running:
            self.go_on()
            self.ask("close")
            assert self.process.stdin is not None
            self.process.stdin.close()
            self.process.wait(20)
        self._close()

    def _close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


@dataclass
class QuotaWorkers:
    """Workers, as replicas: each of `replicas` has its own folder of ledgers."""

    database: Database
    folder: Path
    replicas: int = 1
    more: dict[str, Any] = field(default_factory=dict)
    workers: list[Worker] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.engine: Engine = self.database.engine()
        self.log = self.folder / "provider.log"
        self.log.touch()
        with self.engine.begin() as connection:
            self.database_id = connection.execute(text("SELECT id FROM instance")).scalar_one()
            if not connection.execute(text("SELECT 1 FROM projects")).first():
                connection.execute(text("INSERT INTO projects (id, name, api_key) VALUES ('p', 'p', 'k')"))

    def root(self, replica: int) -> Path:
        """LEDGER_DIR of a replica."""
        return self.folder / f"ledger-{replica}"

    def hire(self, number: int) -> list[Worker]:
        """Start workers; wait until they are ready."""
        hired = []
        for _ in range(number):
            root = self.root(len(self.workers) % self.replicas)
            about = {"database": self.database.values, "root": str(root), "log": str(self.log), **self.more}
            hired.append(Worker(about))
            self.workers.append(hired[-1])
        for worker in hired:
            assert worker.reply() == {"ready": True}
        return hired

    @property
    def running(self) -> list[Worker]:
        """Workers that were not killed."""
        return [worker for worker in self.workers if worker.is_running]

    def replace_dead(self) -> None:
        """As gunicorn's master does."""
        dead = [worker for worker in self.workers if not worker.is_running]
        for worker in dead:
            self.workers.remove(worker)
        self.hire(len(dead))

    def token(self, max_requests: int | None = None, **values: Any) -> Token:
        """A new token."""
        token = Token(str(uuid.uuid4()), new_bearer(), max_requests)
        row = {"id": token.id, "token": digest(token.bearer), "project_id": "p", "max_requests": max_requests, **values}
        bound = {k: to_column(self.engine.dialect.name, v) if isinstance(v, datetime) else v for k, v in row.items()}
        with self.engine.begin() as connection:
            names, marks = ", ".join(bound), ", ".join(":" + name for name in bound)
            connection.execute(text(f"INSERT INTO tokens ({names}) VALUES ({marks})"), bound)
        return token

    def change(self, token: Token, assignments: str) -> float:
        """An UPDATE as management makes it; when it was done, in monotonic seconds."""
        statement = f"UPDATE tokens SET {assignments}, lease_version = lease_version + 1 WHERE id = :id"
        with self.engine.begin() as connection:
            connection.execute(text(statement), {"id": token.id})
        return time.monotonic()

    def everybody(self, do: str, **arguments: Any) -> list[dict[str, Any]]:
        """One command to all, at once."""
        for worker in self.running:
            worker.tell(do, **arguments)
        return [worker.reply() for worker in self.running]

    def offer(self, calls: Sequence[Token], **options: Any) -> Counter[str]:
        """Spread calls over all workers; sums of how they went."""
        running = self.running
        for n, worker in enumerate(running):
            worker.tell("offer", bearers=[token.bearer for token in calls[n :: len(running)]], **options)
        return _summed([worker.reply() for worker in running])

    def seen(self) -> Counter[str]:
        """Requests in the provider's log, by token id."""
        return Counter(line.split()[0] for line in self.log.read_text().splitlines())

    def last_seen(self, token: Token) -> float:
        """When the last of them was dispatched, in monotonic seconds."""
        lines = [line.split() for line in self.log.read_text().splitlines()]
        return max(float(at) for token_id, at in lines if token_id == token.id)

    def lines(self, tokens: Sequence[Token]) -> list[Line]:
        """The tokens' numbers: rows, ledgers of replica 0, the provider's log as witness."""
        ledgers = noted(folder_of(self.root(0), self.database_id))
        with self.engine.connect() as connection:
            wanted = {token.id for token in tokens}
            statement = "SELECT id, request_count, max_requests, leases FROM tokens"
            rows: list[Any] = [row for row in connection.execute(text(statement)).all() if row.id in wanted]
        return compare(rows, ledgers, self.seen())

    def ledgers(self) -> list[Path]:
        """All ledger files."""
        return [path for n in range(self.replicas) for path in files(folder_of(self.root(n), self.database_id))]

    def settled(self, tokens: Sequence[Token]) -> list[Line]:
        """Their numbers once all are at rest."""
        for worker in self.running:
            worker.end()
        return self.lines(tokens)

    def close(self) -> None:
        """End what still runs."""
        for worker in self.running:
            worker.kill()


def _summed(tallies: Sequence[dict[str, Any]]) -> Counter[str]:
    sums: Counter[str] = Counter()
    for tally in tallies:
        for name, value in tally.items():
            sums[name] = max(sums[name], value) if name.startswith("slowest") else sums[name] + value
    return sums


@contextlib.contextmanager
def quota_workers(
    database: Database, folder: Path, number: int, *, replicas: int = 1, **more: Any
) -> Iterator[QuotaWorkers]:
    """A quota_workers of `number`; killed at the end, if it is still there."""
    folder.mkdir(parents=True, exist_ok=True)
    made = QuotaWorkers(database, folder, replicas, more)
    try:
        made.hire(number)
        yield made
    finally:
        made.close()
