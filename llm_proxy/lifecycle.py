"""A worker's life as the application sees it: what the server layer calls besides the application itself."""

import gc
import logging
import time
from collections.abc import Callable
from typing import Any

import gevent

from llm_proxy import logs, metrics
from llm_proxy.container import Container
from llm_proxy.runtime import metric_files
from llm_proxy.server.hooks import AppHooks, Refusal
from llm_proxy.server.state import ServerState

SAMPLE_S = 1.0
_log = logging.getLogger(__name__)


class WorkerLifecycle(AppHooks):
    """A worker's life, from the fork to its last line.

    Args:
        services: The process's parts.
        serving: Called when a worker is about to serve, and has a log.
    """

    def __init__(self, services: Container, *, serving: Callable[[], None] = lambda: None) -> None:
        self._services, self._serving = services, serving
        self._sampler: Any = None

    def started(self, state: ServerState) -> None:
        """Wire everything now, so that what is wrong ends the worker and the first request finds all of it."""
        services = self._services
        logs.configure(services.settings)
        services.phase = lambda: state.phase
        services.workers, services.worker_connections = state.workers, state.worker_connections
        services.front  # noqa: B018  (made by being asked for)
        logs.start()
        self._serving()
        _calm_collector()
        self._sampler = gevent.spawn(self._sample)

    def draining(self) -> None:
        """SIGTERM was seen; the phase tells the rest."""
        _log.info("draining", extra={"exchanges": len(self._services.exchanges.live)})

    def cut(self) -> None:
        """Cut running exchanges: the drain's time is over."""
        self._services.exchanges.cut("drain")

    def refused(self, refusal: Refusal) -> None:
        """Count the code and write an access line; this is neither a request nor an error."""
        metrics.rejected(refusal.code).inc()
        self._services.access.completed(
            status=refusal.status,
            method=refusal.method,
            path=None if refusal.target is None else refusal.target.partition("?")[0],
            duration_s=refusal.duration_s,
            request_id=refusal.request_id,
            client_ip=refusal.client_addr,
            fields={"error": refusal.code, "ending": "refused_by_server", "row": 26},
        )

    def stopped(self, *, cut: bool) -> None:
        """Write down everything; the log last."""
        started_s = time.monotonic()
        if self._sampler is not None:
            self._sampler.kill()
        self._services.stop(cut=cut)
        metric_files.settle_all()
        _log.info("stopped", extra={"was_cut": cut, "took_ms": round((time.monotonic() - started_s) * 1000)})
        logs.stop()

    def reopen(self) -> None:
        """SIGUSR1."""
        self._services.reopen()

    @staticmethod
    def _sample() -> None:
        while True:
            metrics.SAMPLER.sample()
            gevent.sleep(SAMPLE_S)


def _calm_collector() -> None:
    """Leave alone what lives as long as the process, and look for cycles in the rest less often.

    A request leaves no cycles behind when all goes well; looking for them after every 700 objects took 6 % of its time,
    and a full look at everything that was imported holds the loop up for many milliseconds.
    """
    gc.collect()
    gc.freeze()
    gc.enable()  # off while a fresh worker imported its modules
    gc.set_threshold(10_000, 20, 50)
