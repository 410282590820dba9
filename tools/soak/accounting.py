"""The witness' test of accounting, by hand: `python tools/soak/accounting.py [--calls N] [--database NAME] …`.

Two servers of four workers share a database. Ten tokens of mixed quotas, two of them without a limit, are offered
calls by clients that hang up in every phase, before a provider that fails in every way. First comes a calm part, in
which servers are reloaded, no worker is killed, and all numbers must be equal; then the long part, in which workers are
killed with -9. The provider's own log is the witness, by the request ids that the proxy passes on.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
REPLICAS, WORKERS = 2, 4
SHARES = (1, 7, 0.01, 0.03, 0.05, 0.08, 0.1, 0.15)  # quotas: plain numbers, or shares of all calls; two have none
MORE = 0.25  # offered beyond a quota
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello there"}]}
FAULTS: tuple[dict[str, Any], ...] = (  # rare enough that five in a row, which open the circuit, do not come up
    {"every": 31, "status": 500},
    {"every": 37, "status": 400},
    {"every": 59, "drop": True},
    {"every": 101, "cut": "head"},
    {"every": 103, "cut": "mid-head"},
    {"every": 107, "cut": "body", "after": 150},
    {"every": 109, "cut": "body", "after": 150, "reset": True, "framing": "length"},
    {"every": 113, "garbage": True},
    {"every": 223, "silence": "head", "times": 8},
    {"every": 227, "silence": "body", "after": 150, "times": 8},
)
KINDS = {"whole": 78, "stream": 8, "hang up": 4, "reset": 3, "leave a stream": 4, "half a body": 2, "half close": 1}
Call = tuple[int, int, str, float]  # token, server, kind, seconds until the client leaves


# -- the clients, in a process of their own ----------------------------------------------------------------------------


def offer(plan: dict[str, Any]) -> None:
    """Make all calls of a plan, `parallel` at a time; tells its progress, then how they ended."""
    from gevent import monkey

    monkey.patch_all()
    import gevent
    from support.raw import Client, Closed

    calls: Iterator[tuple[int, Call]] = enumerate(plan["calls"])
    ended: list[Counter[str]] = [Counter() for _ in plan["bearers"]]
    done = 0

    def caller() -> None:
        nonlocal done
        for number, (token, server, kind, pause_s) in calls:
            name = f"{plan['name']}.{token}.{number}"
            try:
                with Client(("127.0.0.1", plan["ports"][server])) as client:
                    word = _call(client, _request(plan["bearers"][token], name, kind), kind, pause_s)
            except (Closed, OSError) as error:
                word = "lost" if isinstance(error, Closed | ConnectionError) else type(error).__name__
            ended[token][word] += 1
            done += 1
            if done % plan["told_every"] == 0:
                print(done, flush=True)

    def _call(client: Client, data: bytes, kind: str, pause_s: float) -> str:
        if kind == "half a body":
            client.send(data[:-20])
        else:
            client.send(data)
        if kind == "half close":
            client.half_close()
        if kind == "leave a stream":
            client.until(b"\r\n\r\n")
        if kind in ("hang up", "reset", "leave a stream", "half a body"):
            gevent.sleep(pause_s)
            client.reset() if kind == "reset" else client.sock.close()
            return kind
        return _word(client.response("POST"))

    gevent.joinall([gevent.spawn(caller) for _ in range(plan["parallel"])], raise_error=True)
    print(json.dumps(ended), flush=True)


def _word(response: Any) -> str:
    """Return the status; a refusal for another reason than the quota by its code."""
    return str(json.loads(response.body)["code"]) if response.status == 503 else str(response.status)


def _request(bearer: str, name: str, kind: str) -> bytes:
    from support.raw import request

    fields = [f"Authorization: Bearer {bearer}", f"X-Request-ID: {name}", "Content-Type: application/json"]
    if kind == "leave a stream":
        fields.append('X-Simulate: {"events": 30, "interval": "10ms"}')
    body = {**CHAT, "stream": True} if "stream" in kind else CHAT
    return request("/v1/chat/completions", *fields, method="POST", body=json.dumps(body).encode())


# -- one part: tokens, calls, and what became of them ------------------------------------------------------------------


@dataclass
class Part:
    """Ten tokens and their calls. `quotas` None: no limit."""

    name: str
    tokens: list[dict[str, Any]]
    quotas: list[int | None]
    ended: list[Counter[str]] = field(default_factory=list)
    kills: int = 0
    reloads: int = 0

    @property
    def ids(self) -> list[str]:
        """The rows' ids."""
        return [token["id"] for token in self.tokens]


class Soak:
    """Two servers on one database before one provider.

    Args:
        variables: The settings that lead to the database.
        read: Runs a SELECT.
    """

    def __init__(
        self, folder: Path, variables: Mapping[str, str], read: Callable[[str], Sequence[Any]], seed: int
    ) -> None:
        self.folder, self.read, self.draw = folder, read, random.Random(seed)
        self.variables = {
            **variables,
            "ENCRYPTION_KEY": "0" * 43 + "=",
            "WEB_CONCURRENCY": str(WORKERS),
            "UPSTREAM_FIRST_BYTE_TIMEOUT": "4s",
            "UPSTREAM_IDLE_TIMEOUT": "4s",
            "REQUEST_BODY_TIMEOUT": "1s",
        }
        self.gateways: list[Any] = []

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run provider and servers for the length of a `with`."""
        from support.gateway import running_gateway
        from support.provider import running_provider

        with contextlib.ExitStack() as stack:
            (self.folder / "provider").mkdir(parents=True)
            self.provider = stack.enter_context(running_provider(self.folder / "provider", "--interval", "0"))
            for number in range(REPLICAS):
                own = self.folder / f"replica-{number}"
                more = {"LEDGER_DIR": str(own / "ledger"), "FILE_EVENT_LOG": str(own / "events.jsonl")}
                self.gateways.append(
                    stack.enter_context(running_gateway(own, self.provider.url, **self.variables, **more))
                )
            self.project = self._manage("POST", "/projects", {"name": "soak", "api_key": "sk-of-the-provider"})["id"]
            yield

    def part(self, name: str, calls: int, parallel: int, *, kills: int = 0, reloads: int = 0) -> Part:
        """Offer `calls`, killing workers or reloading servers on the way; then use up what is left of each quota."""
        quotas: list[int | None] = [int(share if share >= 1 else share * calls) for share in SHARES]
        quotas += [None, None]
        wanted = [{} if quota is None else {"max_requests": quota} for quota in quotas]
        about = {"project_id": self.project, "duration_minutes": 60}
        part = Part(name, [self._manage("POST", "/tokens", about | more) for more in wanted], quotas)
        part.kills, part.reloads = kills, reloads
        self.provider.set_rules(*FAULTS)
        self._offer(part, self._calls(quotas, calls), parallel)
        for number, quota in enumerate(quotas):
            if quota is not None:
                self._use_up(part, number)
        return part

    def _calls(self, quotas: Sequence[int | None], number: int) -> list[Call]:
        offered = [token for token, quota in enumerate(quotas) if quota for _ in range(quota + int(quota * MORE) + 20)]
        free = [token for token, quota in enumerate(quotas) if quota is None]
        offered += [self.draw.choice(free) for _ in range(number - len(offered))]
        self.draw.shuffle(offered)
        kinds = self.draw.choices(list(KINDS), list(KINDS.values()), k=len(offered))
        rows = zip(offered, kinds, strict=True)
        return [(token, self.draw.randrange(REPLICAS), kind, self.draw.expovariate(50)) for token, kind in rows]

    def _offer(self, part: Part, calls: list[Call], parallel: int) -> None:
        plan = self.folder / f"{part.name}.json"
        about: dict[str, Any] = {"name": part.name, "calls": calls, "parallel": parallel, "told_every": 50}
        about["ports"] = [gateway.port for gateway in self.gateways]
        about["bearers"] = [token["token"] for token in part.tokens]
        plan.write_text(json.dumps(about))
        troubles = [self._kill] * part.kills + [self._reload] * part.reloads
        due = [(number + 1) * len(calls) // (len(troubles) + 1) for number in range(len(troubles))]
        command = [sys.executable, str(HERE), "--plan", str(plan)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as clients:
            assert clients.stdout is not None
            for line in clients.stdout:
                if line.startswith("["):
                    part.ended = [Counter(one) for one in json.loads(line)]
                elif due and int(line) >= due[0]:
                    due.pop(0)
                    troubles.pop()(self.gateways[len(due) % REPLICAS])
        assert clients.returncode == 0
        assert not due

    def _kill(self, gateway: Any) -> None:
        os.kill(self.draw.choice(gateway.workers()), signal.SIGKILL)

    def _reload(self, gateway: Any) -> None:
        """Let new workers take over; the old ones finish what they have."""
        gateway.process.send_signal(signal.SIGHUP)

    def _use_up(self, part: Part, number: int) -> None:
        """Offer one call after another until the token is refused."""
        from support.raw import Client

        for attempt in range((part.quotas[number] or 0) + 2):
            gateway = self.gateways[attempt % REPLICAS]
            name = f"{part.name}.{number}.more-{attempt}"
            with Client(gateway.address) as client:
                data = _request(part.tokens[number]["token"], name, "whole")
                status = _word(client.send(data).response("POST"))
            part.ended[number][status] += 1
            if status == "429":
                return
            assert status != "circuit_open"
        raise AssertionError(f"token {number} of {part.quotas[number]} is never used up")

    def _manage(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        from support.gateway import MANAGEMENT_TOKEN

        fields = {"Authorization": f"Bearer {MANAGEMENT_TOKEN}", "Content-Type": "application/json"}
        status, _, response = self.gateways[0].ask(method, f"/manage{path}", json.dumps(body).encode(), headers=fields)
        assert status in (200, 201), response
        found: dict[str, Any] = json.loads(response)
        return found

    # -- what the witnesses say ----------------------------------------------------------------------------------------

    def names_seen(self) -> list[str]:
        """Ids of the requests that the provider received; one that is sent again is there again."""
        fields = [json.loads(line)["fields"] for line in self.provider.log.read_text().splitlines()]
        return [value for pairs in fields for name, value in pairs if name.lower() == "x-request-id"]

    def seen(self, part: Part) -> list[int]:
        """Return the requests that the provider received, by token."""
        found = Counter(name.rpartition(".")[0] for name in self.names_seen())
        return [found[f"{part.name}.{number}"] for number in range(len(part.tokens))]

    def charged_by_rows(self, part: Part) -> list[int]:
        """Return what the accounting table charges for the access lines, by token."""
        found = Counter(line["token_id"] for line in self._charged_lines())
        return [found[token_id] for token_id in part.ids]

    def rows_unseen(self) -> set[int]:
        """Rows of charged requests that the provider never read."""
        seen = set(self.names_seen())
        return {line["row"] for line in self._charged_lines() if line["request_id"] not in seen}

    def _charged_lines(self) -> Iterator[dict[str, Any]]:
        from llm_proxy.accounting.outcomes import TABLE, Charge

        charged = {row.number for row in TABLE if row.charge is Charge.KEPT and row.number not in (22, 24)}
        for gateway in self.gateways:
            yield from (line for line in gateway.access_lines() if line.get("row") in charged)

    def counted(self, part: Part) -> list[int]:
        """`request_count` in the database, by token."""
        found = {row[0]: row[1] for row in self.read("SELECT id, request_count FROM tokens")}
        return [found[token_id] for token_id in part.ids]

    def events(self, part: Part) -> list[int]:
        """Events, by token: every charged exchange has one, and no connection failed here."""
        lines = [
            json.loads(line)["token_id"]
            for gateway in self.gateways
            for line in (gateway.folder / "events.jsonl").read_text().splitlines()
        ]
        found = Counter(lines)
        return [found[token_id] for token_id in part.ids]

    def check_calm(self, part: Part) -> dict[str, Any]:
        """No worker was killed: counters, table, events and metrics agree, and each used-up quota is exactly that."""
        from support.gateway import eventually

        eventually(lambda: self.counted(part) == self.charged_by_rows(part), 15, lambda: self._say(part))
        eventually(lambda: self.events(part) == self.counted(part), 15, lambda: self._say(part))
        # A request may meet a connection that the provider is closing: sent, charged, and never read.
        assert self.rows_unseen() <= {5, 8, 28}, self._say(part)
        assert all(a >= b for a, b in zip(self.counted(part), self.seen(part), strict=True)), self._say(part)
        for quota, count in zip(part.quotas, self.counted(part), strict=True):
            assert quota in (None, count), self._say(part)
        totals = [self._totals(gateway) for gateway in self.gateways]
        for requests, upstream, rejected, gone in totals:
            assert requests == upstream + rejected + gone, totals
        assert sum(upstream for _, upstream, _, _ in totals) == sum(self.counted(part)), (totals, self._say(part))
        return self._report(part)

    def check_killed(self, part: Part) -> dict[str, Any]:
        """At rest: no quota passed, each used up, and no count below what the provider saw."""
        from support.gateway import eventually

        def is_settled() -> bool:
            pairs = zip(self.counted(part), self.seen(part), part.quotas, strict=True)
            return all(count >= seen and quota in (None, count) for count, seen, quota in pairs)

        eventually(is_settled, 15, lambda: self._say(part))
        for quota, seen in zip(part.quotas, self.seen(part), strict=True):
            assert quota is None or seen <= quota, self._say(part)
        unsent = sum(self.counted(part)) - sum(self.seen(part))
        most = sum(ended["lost"] + ended["502"] for ended in part.ended)
        assert unsent <= most, f"{unsent} units were noted and never sent, but only {most} calls were lost"
        return self._report(part)

    def check_rest(self, parts: Sequence[Part]) -> None:
        """After the servers' end no worker holds anything, and no ledger is left."""
        assert not self.read("SELECT id, leases FROM tokens WHERE leases IS NOT NULL")
        assert [path for gateway in self.gateways for path in (gateway.folder / "ledger").rglob("*.ledger")] == []
        for part in parts:
            for count, seen in zip(self.counted(part), self.seen(part), strict=True):
                assert count >= seen, self._say(part)

    def _totals(self, gateway: Any) -> tuple[int, int, int, int]:
        requests = gateway.metric("llm_proxy_requests_total")
        upstream = sum(gateway.metrics("llm_proxy_upstream_requests_total").values())
        rejected = sum(gateway.metrics("llm_proxy_rejected_total").values())
        gone = gateway.metric('llm_proxy_client_disconnects_total{phase="before_dispatch"}')
        return int(requests), int(upstream), int(rejected), int(gone)

    def _report(self, part: Part) -> dict[str, Any]:
        ended = sum(part.ended, Counter[str]())
        return {
            "calls": sum(ended.values()),
            "ended": dict(sorted(ended.items())),
            "quotas": part.quotas,
            "provider": self.seen(part),
            "counted": self.counted(part),
            "above_the_provider": sum(self.counted(part)) - sum(self.seen(part)),
        }

    def _say(self, part: Part) -> str:
        about = {
            "quotas": part.quotas,
            "provider": self.seen(part),
            "counted": self.counted(part),
            "by rows": self.charged_by_rows(part),
            "events": self.events(part),
        }
        return "\n" + "\n".join(f"{name}: {values}" for name, values in about.items())


def soak(
    folder: Path,
    variables: Mapping[str, str],
    read: Callable[[str], Sequence[Any]],
    *,
    calls: int,
    kills: int,
    parallel: int,
    reloads: int = 0,
    seed: int = 1,
    starved: float = 0.02,
) -> dict[str, Any]:
    """Both parts; what was seen. Fails by an assertion.

    Args:
        starved: Share of calls that may be refused because a statement missed its 250 ms, charged to no token; more on
            a busy machine.
    """
    run, began = Soak(folder, variables, read, seed), time.monotonic()
    with run.running():
        calm = run.part("calm", max(400, calls // 4), parallel, reloads=reloads)
        found: dict[str, Any] = {"calm": run.check_calm(calm)}
        stormy = run.part("stormy", calls, parallel, kills=kills)
        found["stormy"] = run.check_killed(stormy)
        for name in ("calm", "stormy"):
            ended = dict(found[name]["ended"])
            assert ended.pop("service_unavailable", 0) <= found[name]["calls"] * starved, found
            assert set(ended) <= {"200", "400", "429", "500", "502", "504", "lost", *KINDS}, found
    run.check_rest((calm, stormy))
    return found | {"seconds": round(time.monotonic() - began, 1), "seed": seed}


def main() -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000, help="of the long part")
    parser.add_argument("--database", default="postgres", choices=("sqlite", "postgres", "mysql"))
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--reloads", type=int, default=2, help="of the part in which no worker is killed")
    parser.add_argument("--parallel", type=int, default=200, help="calls at a time")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--folder", type=Path, help="where logs are kept")
    parser.add_argument("--plan", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sys.path.insert(0, str(HERE.parents[2] / "tests"))
    if arguments.plan:
        offer(json.loads(Path(arguments.plan).read_text()))
        return 0
    from support.databases import MariaDb, Postgres, empty_database, running

    kinds = {"postgres": Postgres, "mysql": MariaDb}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True)))
        server = None if arguments.database == "sqlite" else stack.enter_context(running(kinds[arguments.database]))
        database = stack.enter_context(empty_database(arguments.database, server, folder))
        engine = database.migrated()

        def read(statement: str) -> Sequence[Any]:
            with engine.connect() as connection:
                return connection.exec_driver_sql(statement).all()

        options = {name: getattr(arguments, name) for name in ("calls", "kills", "reloads", "parallel", "seed")}
        found = soak(arguments.folder or folder / "run", database.environ(), read, **options)
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
