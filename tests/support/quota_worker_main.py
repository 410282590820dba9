"""A worker's accounting as its own process: gevent, the real database and ledger, a file as the provider's log.

Told by lines of JSON on its input; it responds by lines on its output; see `tests/support/quota_workers.py`.
"""

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402
import os  # noqa: E402
import random  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402
from gevent.fileobject import FileObject  # noqa: E402

from llm_proxy.accounting.lease_slot import STATEMENT_S  # noqa: E402
from llm_proxy.accounting.leased_quota import LeasedQuota  # noqa: E402
from llm_proxy.accounting.rows import DatabaseRows  # noqa: E402
from llm_proxy.crypto import KeyRing  # noqa: E402
from llm_proxy.db.engine import create_engine  # noqa: E402
from llm_proxy.db.health import DatabaseHealth  # noqa: E402
from llm_proxy.db.raw import RawConnectionPool  # noqa: E402
from llm_proxy.errors import AuthenticationError, QuotaExhausted, ServiceUnavailable  # noqa: E402
from llm_proxy.settings import Settings  # noqa: E402
from llm_proxy.tokens.authenticator import TokenAuthenticator  # noqa: E402


class Counting(RawConnectionPool):
    """Counts round trips."""

    trips = 0

    def _run(self, *arguments: Any, **options: Any) -> Any:
        Counting.trips += 1
        return super()._run(*arguments, **options)


class QuotaWorker:
    """Authenticates, peeks and takes as the pipeline does; writes down what it dispatches."""

    def __init__(self, about: dict[str, Any]) -> None:
        engine = create_engine(Settings.from_paths(about["database"]).storage)
        self.health = DatabaseHealth()
        statements = Counting(engine, 3, limit_s=about["limit_s"], connect_failed=self.health.failed)
        syncs = Counting(engine, 1, limit_s=about["limit_s"], open_limit_s=1.0)
        self.directory = TokenAuthenticator(
            statements, KeyRing(None), health=self.health, now=self.health.now, grace_s=about["grace_s"]
        )
        self.quota = LeasedQuota(
            DatabaseRows(statements, self.directory.refresh),
            sync_rows=DatabaseRows(syncs, self.directory.refresh),
            root=Path(about["root"]),
            health=self.health,
            grace_s=about["grace_s"],
        )
        self.log = os.open(about["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.is_loading = False
        self.tally = {"admitted": 0, "refused": 0, "denied": 0, "away": 0, "slowest_s": 0.0, "slowest_away_s": 0.0}

    def call(self, bearer: str, failing: float, pause_s: float) -> str:
        """One request; says how it went."""
        started = time.monotonic()
        word = self._call(bearer, failing, pause_s)
        took_s = time.monotonic() - started - (pause_s if word == "admitted" else 0)
        slowest = "slowest_away_s" if word == "away" else "slowest_s"
        self.tally[slowest] = max(self.tally[slowest], took_s)
        self.tally[word] += 1
        return word

    def _call(self, bearer: str, failing: float, pause_s: float) -> str:
        try:
            token = self.directory.authenticate(bearer)
            self.quota.check(token)
            unit = self.quota.reserve(token)
        except QuotaExhausted:
            return "refused"
        except AuthenticationError:
            return "denied"
        except ServiceUnavailable:
            return "away"
        if random.random() < failing:  # the connection could not be made: for another call
            gevent.sleep(pause_s)
            self.quota.release(unit)
            return self._call(bearer, failing, pause_s)
        os.write(self.log, f"{token.id} {time.monotonic():.4f}\n".encode())
        self.quota.commit(unit)
        gevent.sleep(pause_s)
        return "admitted"

    def offer(self, bearers: list[str], parallel: int, failing: float = 0.0, pause_s: float = 0.0) -> dict[str, Any]:
        """Make one call for each of `bearers`, `parallel` at a time."""
        left = list(bearers)

        def caller() -> None:
            while left:
                self.call(left.pop(), failing, pause_s)

        gevent.joinall([gevent.spawn(caller) for _ in range(parallel)], raise_error=True)
        return self.take_tally()

    def load(self, bearers: list[str], parallel: int, pause_s: float) -> dict[str, Any]:
        """Call without end, in the background."""
        self.is_loading = True

        def caller() -> None:
            while self.is_loading:
                self.call(random.choice(bearers), 0.01, 0.0)
                gevent.sleep(random.uniform(0, 2 * pause_s))

        self.callers = [gevent.spawn(caller) for _ in range(parallel)]
        return {}

    def rest(self) -> dict[str, Any]:
        """End `load`; how its calls went."""
        self.is_loading = False
        gevent.joinall(self.callers, raise_error=True)
        return self.take_tally()

    def take_tally(self) -> dict[str, Any]:
        """How calls went since the last time."""
        tally, self.tally = self.tally, dict.fromkeys(self.tally, 0)
        return tally | {"trips": self.trips()}

    @staticmethod
    def trips() -> int:
        """Round trips since the last time."""
        trips, Counting.trips = Counting.trips, 0
        return trips

    def close(self) -> dict[str, Any]:
        """Settle everything."""
        self.quota.close()
        return {}


def main() -> None:
    """Serve until the input ends."""
    commands = FileObject(sys.stdin.fileno(), "rb", closefd=False)
    about = {"limit_s": STATEMENT_S, "grace_s": 0.0} | json.loads(sys.argv[1])
    worker = QuotaWorker(about)
    worker.quota.start()
    print(json.dumps({"ready": True}), flush=True)
    for line in commands:
        command = json.loads(line)
        response = getattr(worker, command.pop("do"))(**command)
        print(json.dumps(response), flush=True)


if __name__ == "__main__":
    main()
