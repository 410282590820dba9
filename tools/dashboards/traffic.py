"""Callers of all kinds: answered whole and streamed, cached, refused, limited, gone before the end."""

import contextlib
import http.client
import json
import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from support.gateway import Gateway, Token

Call = Callable[["Callers", http.client.HTTPConnection], None]
MODELS = ("gpt-4o-mini", "gpt-4o")


@dataclass
class Callers:
    """Threads that call the proxy until they are told to stop; `rate` is calls a second of all of them."""

    proxy: Gateway
    rate: float = 20.0
    threads: int = 12
    token: Token = field(init=False)
    limited: Token = field(init=False)
    over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.token = self.proxy.token()
        self.limited = self.proxy.token(max_requests=50)

    def run(self, seed: int) -> None:
        """One caller: more of them at the crest of each wave of two minutes."""
        chance = random.Random(seed)
        while not self.over.is_set():
            wave = 1 + 0.5 * math.sin(time.monotonic() * 2 * math.pi / 120)
            self.over.wait(chance.expovariate(wave * self.rate / self.threads))
            call = chance.choices([whole, stream, models, unknown, stranger, exhausted, leaves], SHARES)[0]
            connection = http.client.HTTPConnection(*self.proxy.address, timeout=30)
            with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
                call(self, connection)

    def ask(self, connection: http.client.HTTPConnection, method: str, path: str, bearer: str, **body: object) -> None:
        """Send one call."""
        fields = {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"}
        connection.request(method, path, json.dumps(body) if body else None, fields)


def _chat(callers: Callers, connection: http.client.HTTPConnection, token: Token, **more: object) -> None:
    messages = [{"role": "user", "content": "Say hello in ten words."}]
    model = random.choice(MODELS)
    callers.ask(connection, "POST", "/v1/chat/completions", token.bearer, model=model, messages=messages, **more)


def whole(callers: Callers, connection: http.client.HTTPConnection) -> None:
    """Send a chat that is answered in one piece."""
    _chat(callers, connection, callers.token)
    connection.getresponse().read()


def stream(callers: Callers, connection: http.client.HTTPConnection) -> None:
    """Send a chat that is streamed."""
    _chat(callers, connection, callers.token, stream=True)
    connection.getresponse().read()


def models(callers: Callers, connection: http.client.HTTPConnection) -> None:
    """Ask for what a cache may keep."""
    callers.ask(connection, "GET", f"/v1/models?page={random.randrange(40)}", callers.token.bearer)
    connection.getresponse().read()


def unknown(callers: Callers, connection: http.client.HTTPConnection) -> None:
    """Ask for a path that the provider file does not allow."""
    callers.ask(connection, "GET", "/v1/nowhere", callers.token.bearer)
    connection.getresponse().read()


def stranger(callers: Callers, connection: http.client.HTTPConnection) -> None:
    """Ask with a bearer that was never issued."""
    callers.ask(connection, "GET", "/v1/models", "sk-nobody")
    connection.getresponse().read()


def exhausted(callers: Callers, connection: http.client.HTTPConnection) -> None:
    """Ask with a token of few requests."""
    _chat(callers, connection, callers.limited)
    connection.getresponse().read()


def leaves(callers: Callers, connection: http.client.HTTPConnection) -> None:
    """Hang up in the middle of a stream."""
    _chat(callers, connection, callers.token, stream=True)
    connection.getresponse().read(40)


SHARES = (8, 6, 6, 1, 1, 1, 1)


@contextlib.contextmanager
def traffic(proxy: Gateway, rate: float = 20.0) -> Iterator[Callers]:
    """Make calls for the length of a `with`."""
    callers = Callers(proxy, rate)
    threads = [threading.Thread(target=callers.run, args=(n,)) for n in range(callers.threads)]
    for thread in threads:
        thread.start()
    try:
        yield callers
    finally:
        callers.over.set()
        for thread in threads:
            thread.join(40)
