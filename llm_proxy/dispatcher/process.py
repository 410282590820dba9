"""A dispatcher process put together: signals, health port, loop, end (docs/events.md, "The dispatcher")."""

import logging
import os
import signal
from typing import Any
from urllib.parse import urlsplit

import gevent
from gevent.pywsgi import WSGIServer
from redis.client import Redis

from llm_proxy import redisclient
from llm_proxy.dispatcher.backends import backend_class
from llm_proxy.dispatcher.backends.base import Backend, BackendConfig, BackendError
from llm_proxy.dispatcher.delivery import Delivery
from llm_proxy.dispatcher.health import listen
from llm_proxy.dispatcher.loop import Loop, StopClock
from llm_proxy.dispatcher.options import Options
from llm_proxy.dispatcher.readiness import OPENED, STARTED, Readiness
from llm_proxy.dispatcher.series import Series
from llm_proxy.dispatcher.state import State
from llm_proxy.dispatcher.transform import Transformer
from llm_proxy.events.bus import NameTaken, Source, unreachable
from llm_proxy.events.dead_letters import DeadLetters
from llm_proxy.events.list_source import ListSource
from llm_proxy.events.stream_source import StreamSource
from llm_proxy.formats.tokens import Estimator

log = logging.getLogger(__name__)

_REDIS_TIMEOUT_S = 5.0


class StartFailed(Exception):
    """The dispatcher does not start; one line for the user."""


def make_source(options: Options) -> Source:
    """Return the bus's consumer end."""

    def connect(timeout_s: float) -> Redis:
        return redisclient.connect(options.redis, timeout_s=timeout_s, connect_timeout_s=_REDIS_TIMEOUT_S)

    events = options.events
    where: dict[str, Any] = {"key": options.key, "consumer": options.consumer}
    where["claim_time_s"] = events.stream_claim_time_s
    if options.is_list:
        return ListSource(connect, **where)
    block_s, trims = events.stream_block_time_s, events.stream_trim_acked
    return StreamSource(connect, group=events.consumer_group, block_s=block_s, trims=trims, **where)


def make_backend(options: Options, progress: Any = lambda: None) -> Backend:
    """Return the service's back end. Raises BackendError."""
    return backend_class(options.dispatcher.service)(
        BackendConfig(
            endpoint=options.endpoint,
            api_key=options.dispatcher.api_key,
            timeout_s=options.dispatcher.timeout_s,
            concurrency=options.dispatcher.concurrency,
            batch_size=options.dispatcher.batch_size,
            file_max_bytes=options.dispatcher.file_max_bytes,
            progress=progress,
        )
    )


def make_dead_letters(options: Options) -> DeadLetters:
    """Return the dead letters of the bus."""
    client = redisclient.connect(options.redis, timeout_s=_REDIS_TIMEOUT_S)
    is_list, max_len = options.is_list, options.dispatcher.dead_letter_max_len
    return DeadLetters(client, options.dead_key, bus_key=options.key, is_list=is_list, max_len=max_len)


def make_transformer(options: Options) -> Transformer:
    """Return what makes payloads."""
    return Transformer(
        key=options.key,
        methods=frozenset(method.upper() for method in options.dispatcher.methods),
        estimator=Estimator(options.tiktoken_dir) if options.dispatcher.estimate_tokens else None,
        is_verbose=options.dispatcher.verbose,
        keeps_binary=options.events.log_binary_responses,
    )


class Process:
    """One dispatcher, from start to exit code."""

    def __init__(self, options: Options, readiness: Readiness | None = None) -> None:
        self._options, self._settings = options, options.dispatcher
        self._readiness = readiness or Readiness()
        self._state = State(options, Series(self._settings.service))
        self._clock = StopClock(self._state, self._settings.shutdown_timeout_s)
        self._source = make_source(options)
        self._loop = Loop(options, self._source, self._state, self._clock)
        self._backend: Backend | None = None
        self._main: gevent.Greenlet | None = None
        self._signals = 0

    def run(self) -> int:
        """Run to the end; 0 for a clean one, 1 where `--once` had to leave something. Raises StartFailed."""
        try:
            self._backend = make_backend(self._options, self._clock.beat)
        except BackendError as exc:
            raise StartFailed(str(exc)) from exc
        server = self._listen()
        self._watch_signals()
        self._say_start()
        self._readiness.tell(STARTED)
        house = gevent.spawn(self._loop.keep_house)
        self._main = gevent.spawn(self._work)
        self._main.join()
        house.kill()
        self._end(server)
        if self._main.exception is not None and not isinstance(self._main.exception, gevent.GreenletExit):
            if isinstance(self._main.exception, NameTaken):
                raise StartFailed(f"REDIS_CONSUMER_NAME: {self._main.exception}") from self._main.exception
            raise self._main.exception
        return int(self._main.value) if isinstance(self._main.value, int) else 0

    def _work(self) -> int:
        if not self._loop.open():
            return 0 if not self._options.once else 1
        self._readiness.tell(OPENED)
        assert self._backend is not None
        delivery = Delivery(
            options=self._options,
            source=self._source,
            backend=self._backend,
            dead_letters=make_dead_letters(self._options),
            transformer=make_transformer(self._options),
            state=self._state,
            clock=self._clock,
            more=self._loop.one_more,
        )
        self._loop.run(delivery)
        if not self._options.once:
            return 0
        return 1 if self._source.held or delivery.has_given_up or self._state.stats.lag else 0

    def _listen(self) -> WSGIServer | None:
        if self._settings.health_addr is None:
            return None
        try:
            return listen(self._settings.health_addr, self._state)
        except OSError as exc:
            reason = exc.strerror or str(exc)
            raise StartFailed(f"DISPATCHER_HEALTH_ADDR={self._settings.health_addr}: {reason}") from exc

    def _end(self, server: WSGIServer | None) -> None:
        held = self._source.held
        if held:
            log.info("stopped; %d events stay pending on the bus", held)
        else:
            log.info("stopped; nothing is pending")
        try:
            with gevent.Timeout(2.0, TimeoutError()):
                self._source.leave()
        except unreachable(TimeoutError) as exc:
            log.debug("leaving the bus failed: %s", type(exc).__name__)
        if self._backend is not None:
            self._backend.close()
        if server is not None:
            server.stop(timeout=1)

    # -- signals -----------------------------------------------------------------------------------------------------

    def _watch_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            gevent.signal_handler(number, self._on_stop)
        gevent.signal_handler(signal.SIGHUP, self._reopen)

    def _on_stop(self) -> None:
        self._signals += 1
        if self._signals > 1:
            os._exit(1)
        self._stop()

    def _stop(self) -> None:
        log.info("stopping: what is held is sent first")
        self._clock.stop()
        if self._main is not None:
            gevent.spawn_later(self._settings.shutdown_timeout_s, self._main.kill)

    def _reopen(self) -> None:
        if self._backend is not None:
            try:
                self._backend.reopen()
            except OSError as exc:
                log.error("reopening failed: %s", exc.strerror)

    def _say_start(self) -> None:
        """Log what this dispatcher carries where."""
        options = self._options
        is_list = options.is_list
        log.info(
            "dispatcher started",
            extra={
                "bus": options.events.bus,
                "redis": str(options.redis),
                "key": options.key,
                "group": None if is_list else options.events.consumer_group,
                "consumer": options.consumer,
                "service": options.dispatcher.service,
                "endpoint": urlsplit(options.endpoint).hostname or options.endpoint,
            },
        )
        if is_list and options.events.consumer_group != "llm-proxy-dispatchers":
            log.warning("REDIS_CONSUMER_GROUP has no effect: all consumers of a list share its events")
