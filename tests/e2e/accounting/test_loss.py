"""A whole server is killed at work: with its ledgers everything is found again, without them nothing is passed."""

import json
import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support.commands import run
from support.gateway import Gateway, Token, eventually, running_gateway
from support.provider import Provider, running_provider
from support.raw import Client, Closed, request

CALLERS = 4  # of each token
LIMIT = 500
SETTINGS = {"ENCRYPTION_KEY": "0" * 43 + "=", "WEB_CONCURRENCY": "2", "HTTP_CACHE_ENABLED": "false"}


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Provider]:
    """The simulated provider."""
    (tmp_path / "provider").mkdir()
    with running_provider(tmp_path / "provider", "--interval", "0") as running:
        yield running


def seen(provider: Provider) -> Counter[str]:
    """Requests that the provider received, by token."""
    return Counter(about.values("X-Request-ID")[0].rpartition(".")[0] for about in provider.seen())


def kill(gateway: Gateway) -> None:
    """All of it at once, as a machine ends."""
    pids = [gateway.process.pid, *gateway.workers()]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    gateway.process.wait()
    gateway.exit_code = 0  # as wanted


def load(gateway: Gateway, token: Token) -> list[threading.Thread]:
    """Call until the server is gone or refuses."""

    def caller(number: int) -> None:
        with suppress(OSError, Closed), Client(gateway.address) as client:
            for call in range(10_000):
                name = f"{token.id}.{number}-{call}"
                fields = (f"Authorization: Bearer {token.bearer}", f"X-Request-ID: {name}")
                if client.send(request("/v1/models", *fields)).response().status == 429:
                    return

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(CALLERS)]
    for thread in threads:
        thread.start()
    return threads


@pytest.mark.parametrize("is_lost", [False, True], ids=["ledgers kept", "ledgers lost"])
def test_a_server_that_is_killed_as_a_whole(tmp_path: Path, provider: Provider, is_lost: bool) -> None:
    """The next start settles what the dead had noted. Without their ledgers slices count as spent, never too few.

    Of an unlimited token half a second is missing then, and `usage reconcile` says so.
    """
    folder = tmp_path / "gateway"
    with running_gateway(folder, provider.url, **SETTINGS) as gateway:
        limited, free = gateway.token(max_requests=LIMIT), gateway.token()
        threads = load(gateway, limited) + load(gateway, free)
        eventually(lambda: seen(provider)[limited.id] > 60 and seen(provider)[free.id] > 60)
        kill(gateway)
        for thread in threads:
            thread.join()
    if is_lost:
        shutil.rmtree(folder / "data" / "ledger")
    witnessed = seen(provider)
    with running_gateway(folder, provider.url, **SETTINGS) as gateway:
        counted = {token.id: gateway.request_count(token) for token in (limited, free)}
        if is_lost:
            assert counted[free.id] <= witnessed[free.id] + CALLERS
            _age_leases(gateway)
            said = run("usage", "reconcile", "--json", variables=gateway.env, folder=folder)
            held = {one["token_id"]: one["counter"] for one in json.loads(said.stdout)["held_elsewhere"]}
            assert held == {limited.id: "counts what was not used", free.id: "lacks what was admitted after that"}
            words = run("usage", "reconcile", variables=gateway.env, folder=folder).stdout
            assert f"{free.id} is held by a worker whose ledger is not on this machine" in words
        else:
            for token in (limited, free):
                assert 0 <= counted[token.id] - witnessed[token.id] <= CALLERS, (counted, witnessed)
        for thread in load(gateway, limited):
            thread.join()
        assert gateway.request_count(limited) == LIMIT
    stranded = LIMIT - seen(provider)[limited.id]
    assert 0 <= stranded <= (LIMIT / 2 if is_lost else CALLERS)


def _age_leases(gateway: Gateway) -> None:
    """As if some time had passed."""
    for token_id, stored in gateway.rows("SELECT id, leases FROM tokens WHERE leases IS NOT NULL"):
        aged = {lease: [granted, settled, at - 60] for lease, (granted, settled, at) in json.loads(stored).items()}
        gateway.execute("UPDATE tokens SET leases = ? WHERE id = ?", (json.dumps(aged), token_id))
