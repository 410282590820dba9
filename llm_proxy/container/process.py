"""A process's parts together, and their life: what runs beside requests, its start and its end."""

import threading
import time
from functools import cached_property

import gevent
from gevent import monkey

from llm_proxy import logs, metrics, runtime_metrics
from llm_proxy.accounting.lease_slot import SYNC_S
from llm_proxy.container.proxy import Proxy
from llm_proxy.db import check
from llm_proxy.db.errors import DatabaseAway
from llm_proxy.forwarding.pipeline import Pipeline
from llm_proxy.forwarding.router import Router

UNREADY_S = 2.0  # of failing syncs: shorter outages are met by repetition


class Container(Proxy):
    """What views, commands and the server's hooks share."""

    @cached_property
    def front(self) -> Pipeline | Router:
        """The proxy; what runs beside requests begins with it."""
        self.start()
        return super().front

    def readiness(self) -> str | None:
        """Return the check that fails, None when requests may come."""
        if self.phase() in ("grace", "draining"):
            return "draining"
        return check.readiness(self.engine, self._meet_database) or self.limits.readiness()

    def _meet_database(self) -> None:
        """Raise when requests would be refused because of the database."""
        if self.health.down_s >= UNREADY_S:
            raise DatabaseAway("quotas cannot be synced")
        self.statements.probe()

    def start(self) -> None:
        """Begin what runs beside requests; once, in the process that serves."""
        if self._is_started:
            return
        self._is_started = True
        if monkey.is_module_patched("socket"):
            self.quota.start()
            self.audit.start()
            self.publisher.start()
            self.meter.start()
            self.outcomes.start()
            self._meet_peers()
            self._keeping = gevent.spawn(self._keep_house)
            self._watching_loop = runtime_metrics.watch_loop()
        else:  # a development server with threads: gevent's loop does not run
            threading.Thread(target=self._beat_in_a_thread, daemon=True).start()
        runtime_metrics.watch()
        watch = metrics.SAMPLER.watch
        watch(metrics.INFLIGHT, lambda: len(self.exchanges.live) - self.exchanges.open_sockets)
        watch(metrics.WS_OPEN, lambda: self.exchanges.open_sockets)
        watch(metrics.STREAMS_OPEN, lambda: self.exchanges.open_streams)
        watch(metrics.EVENTS_QUEUED, lambda: self.publisher.queued)
        watch(metrics.EVENT_SPOOL_BYTES, lambda: self.publisher.spool_bytes)
        cache = self.response_cache
        if cache is not None:
            watch(metrics.CACHE_STORED_BYTES, cache.store.stored_bytes)
        watch(metrics.RATELIMIT_FALLBACK, lambda: self.limits.is_in_fallback)
        watch(metrics.CIRCUIT_OPEN, lambda: any(lane.breaker.is_open for lane in self.lanes))

    def _meet_peers(self) -> None:
        self.streams.connect(self.peers)
        self.tails.connect(self.peers)
        self.peers.start()

    def _keep_house(self) -> None:
        while True:
            gevent.sleep(self.housekeeper.turn_s)
            self.housekeeper.turn()

    def _beat_in_a_thread(self) -> None:
        while self._is_started:
            self.quota.sync()
            self.audit.flush()
            self.publisher.turn()
            self.meter.beat()
            self.outcomes.flush()
            time.sleep(SYNC_S)

    def stop(self, *, cut: bool = False) -> None:
        """Write down everything: counts, events, then audit records. `cut`: nothing is waited for."""
        if self._is_started:
            self._is_started = False
            if self._watching_loop is not None:
                self._watching_loop.kill()
            if self._keeping is not None:
                self._keeping.kill()
                if not cut:
                    self.housekeeper.close()
            self.quota.close()
            self.meter.close(cut=cut)
            self.outcomes.close()
            if "peers" in vars(self):
                self.peers.close()
            self.publisher.close(cut=cut)
            self.audit.close()
            self.limits.close()
            self.failures.close()
            for pipeline in self.pipelines.values():
                pipeline.close()
        elif "audit" in vars(self):  # a command that wrote records without serving
            self.audit.close()
        self._disconnect()

    def _disconnect(self) -> None:
        """Close the cache, and connections to the database that no request uses; nothing is made for that."""
        made = vars(self)
        if made.get("response_cache") is not None:
            made["response_cache"].close()
        for name in ("engine", "long_engine"):
            if name in made:
                made[name].dispose()
        if "statements" in made:
            self.statements.close()

    def reopen(self) -> None:
        """SIGUSR1: the log, the audit file and the file of events may have been renamed."""
        logs.reopen()
        self.audit.reopen()
        self.publisher.reopen()
