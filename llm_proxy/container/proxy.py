"""The parts of a process that carry exchanges to the provider and back."""

from functools import cached_property, partial
from typing import Protocol

import gevent

from llm_proxy import logs, metrics
from llm_proxy.container.storage import Storage
from llm_proxy.errors import LlmProxyError
from llm_proxy.events.capture import CaptureLimits
from llm_proxy.events.make import make_publisher
from llm_proxy.events.memory import MemoryBus
from llm_proxy.events.publisher import Publisher
from llm_proxy.events.queue import Counters
from llm_proxy.forwarding.build import (
    build_cors,
    build_inspector,
    build_lane,
    build_request_fields,
    build_sockets,
    build_timeouts,
    build_upstream,
)
from llm_proxy.forwarding.event_recorder import EventRecorder
from llm_proxy.forwarding.exchange import ExchangeRegistry
from llm_proxy.forwarding.lane import Lane
from llm_proxy.forwarding.pipeline import Pipeline
from llm_proxy.forwarding.rejection_audit import RejectionAudit
from llm_proxy.forwarding.reporters import AccessReporter, UsageRecorder, report_metrics
from llm_proxy.forwarding.response_cache import CacheSource, NoCache, ResponseSource
from llm_proxy.forwarding.router import Router
from llm_proxy.forwarding.settlement import Reporter, Settlement
from llm_proxy.forwarding.sockets import Sockets
from llm_proxy.forwarding.token_steps import TokenSteps
from llm_proxy.forwarding.turns import TurnDesk
from llm_proxy.housekeeping import Housekeeper
from llm_proxy.operations.streams import Streams
from llm_proxy.operations.tail import Tails
from llm_proxy.runtime import shared_dir
from llm_proxy.runtime.peers import Peers
from llm_proxy.settings import Settings
from llm_proxy.transport import Upstream


class Render(Protocol):
    """From an error to a response's status, fields and body."""

    def __call__(self, error: LlmProxyError, *, shape: str) -> tuple[str, list[tuple[str, str]], bytes]:
        """Render it in the form of a vendor's API."""


class Proxy(Storage):
    """The pipeline and its parts.

    Args:
        render: From an error to a response's status, fields and body.
    """

    def __init__(self, settings: Settings, render: Render) -> None:
        super().__init__(settings)
        self._render = render
        self._is_started = False
        self._keeping: gevent.Greenlet | None = None
        self._watching_loop: gevent.Greenlet | None = None

    @cached_property
    def upstream(self) -> Upstream:
        """Sends requests to the default provider."""
        return build_upstream(self.provider)

    @cached_property
    def access(self) -> logs.AccessLog:
        """The access log."""
        return logs.AccessLog(self.settings.operation.log_level)

    @cached_property
    def publisher(self) -> Publisher:
        """Takes events to the bus. Raises ValueError when REDIS_ADDR is no address."""
        counters = Counters(
            published=metrics.EVENTS_PUBLISHED.inc,
            spooled=metrics.EVENTS_SPOOLED.inc,
            dropped=lambda reason, count: metrics.events_dropped[reason].inc(count),
            bus_seconds=metrics.redis_duration["bus"].observe,
        )
        return make_publisher(self.settings, counters)

    @cached_property
    def recorder(self) -> EventRecorder:
        """Makes events of exchanges."""
        return EventRecorder(
            self.publisher,
            CaptureLimits.from_settings(self.settings.events),
            is_required=self.settings.events.required,
            own_secrets=(self.settings.operation.management_token, self.settings.operation.management_token_previous),
        )

    @cached_property
    def usage_recorder(self) -> UsageRecorder:
        """Taps exchanges for what they use."""
        return UsageRecorder(self.meter)

    @cached_property
    def exchanges(self) -> ExchangeRegistry:
        """The exchanges that run in this worker."""
        registry = ExchangeRegistry()
        if self.settings.tokens.revoke_cuts_streams:
            self.quota.cut_streams(
                registry.streaming_tokens,
                registry.cut_streams_of,
                with_project=self.settings.tokens.enforce_project_active,
            )
        return registry

    @cached_property
    def streams(self) -> Streams:
        """The exchanges that run in all workers."""
        return Streams(self.exchanges)

    @cached_property
    def tails(self) -> Tails:
        """Events as they come."""
        bus = self.publisher.bus
        return Tails(self.settings, bus if isinstance(bus, MemoryBus) else None)

    @cached_property
    def peers(self) -> Peers:
        """The workers of this server."""
        return Peers(shared_dir.shared(), {**self.streams.handlers(), **self.tails.handlers()})

    @cached_property
    def lanes(self) -> tuple[Lane, ...]:
        """The providers that are served, each with its slots and circuits; the default one first."""
        others = self.loaded_provider.others
        return tuple(
            build_lane(
                provider,
                self.settings,
                workers=self.workers,
                worker_connections=self.worker_connections,
                is_default=provider is self.provider,
                has_neighbours=bool(others),
            )
            for provider in (self.provider, *others)
        )

    @cached_property
    def settlement(self) -> Settlement:
        """Settles exchanges, and tells the reporters of each end."""
        audits = [RejectionAudit(self.audit).report] if self.settings.operation.audit_enabled else []
        reporters: list[Reporter] = [
            report_metrics,
            self.usage_recorder.report,
            self.outcomes.report,
            self.traffic.report,
            self.recorder.report,
            *audits,
            AccessReporter(self.access).report,
        ]
        return Settlement(self.exchanges, quota=self.quota, reporters=reporters)

    def _response_source(self, lane: Lane) -> ResponseSource:
        """Return the cache as the pipeline of one provider uses it."""
        cache = self.response_cache
        if cache is None:
            return NoCache()
        return CacheSource(
            cache,
            background=lambda request, token: self.pipelines[lane].refresh(request, token),
            is_debug=self.access.is_debug,
        )

    @cached_property
    def pipelines(self) -> dict[Lane, Pipeline]:
        """The proxy to each provider."""
        return {lane: self._build_pipeline(lane) for lane in self.lanes}

    @cached_property
    def front(self) -> Pipeline | Router:
        """Responds to requests: the one pipeline, or the router of several."""
        pipelines = self.pipelines
        default, *others = self.lanes
        if not others:
            return pipelines[default]
        return Router(pipelines[default], [(lane.provider, pipelines[lane]) for lane in others])

    def _build_pipeline(self, lane: Lane) -> Pipeline:
        settings, provider, steps = self.settings, lane.provider, self._build_steps(lane)
        return Pipeline(
            lane,
            registry=self.exchanges,
            settlement=self.settlement,
            access=self.access,
            is_draining=lambda: self.phase() == "draining",
            inspector=build_inspector(provider, settings.server),
            limits=self.limits,
            steps=steps,
            quota=self.quota,
            budgets=self.budgets,
            cache=self._response_source(lane),
            tap_factories=(self.recorder.tap, self.usage_recorder.tap),
            request_fields=build_request_fields(provider, settings.upstream),
            upstream=self.upstream if lane.is_default else build_upstream(provider),
            timeouts=build_timeouts(provider),
            cors=build_cors(provider, settings.server),
            render=partial(self._render, shape=provider.error_shape),
            max_request_bytes=settings.server.max_request_size_bytes,
            sockets=self._build_sockets(lane, steps),
            refuses_unseen=settings.tokens.budgets_refuse_unseen,
        )

    def _build_steps(self, lane: Lane) -> TokenSteps:
        return TokenSteps(
            lane,
            directory=self.directory,
            quota=self.quota,
            limits=self.limits,
            budgets=self.budgets,
            enforces_project=self.settings.tokens.enforce_project_active,
        )

    def _build_sockets(self, lane: Lane, steps: TokenSteps) -> Sockets | None:
        """Return what opens WebSockets to a provider; None where the provider file opens no path."""
        settings, provider = self.settings, lane.provider
        if not provider.websocket_paths:
            return None
        desk = TurnDesk(
            registry=self.exchanges,
            settlement=self.settlement,
            steps=steps,
            quota=self.quota,
            budgets=self.budgets,
            inspector=build_inspector(provider, settings.server),
            tap_factories=(self.recorder.tap, self.usage_recorder.tap),
            refuses_unseen=settings.tokens.budgets_refuse_unseen,
        )
        sockets = build_sockets(
            provider, settings, desk, is_draining=lambda: self.phase() == "draining", now=self.health.now
        )
        self.quota.watch_sockets(sockets.tokens, sockets.seen)
        return sockets

    @cached_property
    def housekeeper(self) -> Housekeeper:
        """Tidies up when this worker leads."""
        return Housekeeper(
            self.long_engine,
            self.audit,
            self.settings,
            counted=lambda job, rows: metrics.HOUSEKEEPING_ROWS.labels(job).inc(rows),
            changed=self._forget_token,
        )
