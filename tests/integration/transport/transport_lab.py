"""A scripted upstream with an `Upstream` that talks to it, and how cases use them."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gevent
from integration.transport.scripted import HOST, Connection, Proxy, Script, Server, found, responding

from llm_proxy.transport import Options, Timeouts, Upstream, UpstreamRequest, UpstreamResponse
from llm_proxy.transport.origin import is_quiet

SWEEP_S = 0.05
PATIENT = Timeouts(connect_s=10, first_byte_s=10, idle_s=10, total_s=math.inf)


@dataclass
class Lab:
    """An `Upstream` and the scripted server that it talks to."""

    mode: str
    server: Server
    upstream: Upstream
    proxy: Proxy | None = None
    responses: list[UpstreamResponse] = field(default_factory=list)

    def renew(self) -> None:
        """Another `Upstream`, as after a restart."""
        self.upstream.close()
        self.upstream = Upstream(Options(sweep_s=SWEEP_S, look_up=found))

    @property
    def is_tls(self) -> bool:
        return self.mode != "plain"

    @property
    def origin(self) -> str:
        return f"{'https' if self.is_tls else 'http'}://{HOST}:{self.server.port}"

    def script(self, *scripts: Script) -> None:
        """What the connections do, in their order."""
        self.server.scripts = list(scripts)

    def respond(self, *responses: bytes) -> None:
        """Every connection answers each request with the next of these."""
        self.script(responding(*responses))

    def forward(
        self, method: str = "GET", target: bytes = b"/v1", fields: Any = (), body: Any = None
    ) -> UpstreamRequest:
        """A request with Host, and Content-Length for a body of bytes."""
        head = [(b"Host", HOST.encode())]
        if isinstance(body, bytes) and not any(n.lower() == b"transfer-encoding" for n, _ in fields):
            head.append((b"Content-Length", b"%d" % len(body)))
        return UpstreamRequest(method, target, [*head, *fields], self.origin, body)

    def send(
        self,
        method: str = "GET",
        target: bytes = b"/v1",
        fields: Any = (),
        body: Any = None,
        *,
        timeouts: Timeouts = PATIENT,
        begun: Callable[[Any], object] | None = None,
    ) -> UpstreamResponse:
        response = self.upstream.send(self.forward(method, target, fields, body), timeouts=timeouts, begun=begun)
        self.responses.append(response)
        return response

    def fetch(self, *args: Any, **more: Any) -> tuple[int, bytes]:
        """Status and whole content."""
        response = self.send(*args, **more)
        return response.status, b"".join(response.chunks())

    @property
    def quiet_connections(self) -> list[Any]:
        """Idle connections on which nothing has come."""
        origins = self.upstream._adapter()._origins.values()
        return [sock for origin in origins for sock, _ in origin.idle if is_quiet(sock)]

    @property
    def connections(self) -> list[Connection]:
        return self.server.connections


def wait_until(condition: Callable[[], object], limit_s: float = 5.0) -> None:
    """Wait for it, on the hub."""
    until = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until, "it never came true"
        gevent.sleep(0.002)
