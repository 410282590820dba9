"""The parts of a process that carry exchanges to the provider and back."""

from collections.abc import Callable
from functools import cached_property

import gevent

from llm_proxy import logs, metrics
from llm_proxy.container.storage import Storage
from llm_proxy.errors import LlmProxyError
from llm_proxy.events.capture import CaptureLimits
from llm_proxy.events.make import make_publisher
from llm_proxy.events.publisher import Publisher
from llm_proxy.events.queueing import Counters
from llm_proxy.forwarding.breaker import CircuitBreaker, ConcurrencyLimit, slot_limit
from llm_proxy.forwarding.build import (
    build_cors,
    build_inspector,
    build_request_fields,
    build_sockets,
    build_timeouts,
    build_upstream,
)
from llm_proxy.forwarding.event_recorder import EventRecorder
from llm_proxy.forwarding.exchange import ExchangeRegistry
from llm_proxy.forwarding.pipeline import Pipeline
from llm_proxy.forwarding.rejection_audit import RejectionAudit
from llm_proxy.forwarding.reporters import AccessReporter, UsageRecorder, report_metrics
from llm_proxy.forwarding.response_cache import CacheSource, NoCache, ResponseSource
from llm_proxy.forwarding.settlement import Reporter, Settlement
from llm_proxy.forwarding.sockets import Sockets
from llm_proxy.forwarding.token_steps import TokenSteps
from llm_proxy.forwarding.turns import TurnDesk
from llm_proxy.housekeeping import Housekeeper
from llm_proxy.settings import Settings
from llm_proxy.transport import Upstream

Render = Callable[[LlmProxyError], tuple[str, list[tuple[str, str]], bytes]]


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

    @cached_property
    def upstream(self) -> Upstream:
        """Sends requests."""
        return build_upstream(self.provider)

    @cached_property
    def access(self) -> logs.AccessLog:
        """The access log."""
        return logs.AccessLog(self.settings.log_level)

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
            CaptureLimits.of(self.settings),
            provider=self.loaded_provider.provider.name,
            is_required=self.settings.events_required,
        )

    @cached_property
    def usage_recorder(self) -> UsageRecorder:
        """Taps exchanges for what they use."""
        return UsageRecorder(self.meter)

    @cached_property
    def exchanges(self) -> ExchangeRegistry:
        """The exchanges that run in this worker."""
        registry = ExchangeRegistry()
        if self.settings.revoke_cuts_streams:
            self.admission.cut_streams(
                registry.streaming_tokens, registry.cut_streams_of, with_project=self.settings.enforce_project_active
            )
        return registry

    @cached_property
    def circuit(self) -> CircuitBreaker:
        """Whether the provider is asked at all."""
        return CircuitBreaker()

    @cached_property
    def slots(self) -> ConcurrencyLimit:
        """How many exchanges this worker runs at once."""
        return ConcurrencyLimit(
            slot_limit(self.settings.max_concurrent_requests, self.workers, self.worker_connections)
        )

    @cached_property
    def settlement(self) -> Settlement:
        """Settles exchanges, and tells the reporters of each end."""
        audits = [RejectionAudit(self.audit).report] if self.settings.audit_enabled else []
        reporters: list[Reporter] = [
            report_metrics,
            self.usage_recorder.report,
            self.recorder.report,
            *audits,
            AccessReporter(self.access).report,
        ]
        return Settlement(
            self.exchanges, admission=self.admission, circuit=self.circuit, slots=self.slots, reporters=reporters
        )

    @cached_property
    def response_source(self) -> ResponseSource:
        """The cache as the pipeline uses it."""
        cache = self.response_cache
        if cache is None:
            return NoCache()
        return CacheSource(
            cache,
            background=lambda request, token: self.pipeline.refresh(request, token),
            is_debug=self.access.is_debug,
        )

    @cached_property
    def pipeline(self) -> Pipeline:
        """The proxy."""
        settings, provider = self.settings, self.provider
        return Pipeline(
            provider,
            registry=self.exchanges,
            settlement=self.settlement,
            access=self.access,
            is_draining=lambda: self.phase() == "draining",
            inspector=build_inspector(provider, settings),
            limits=self.limits,
            steps=self.token_steps,
            admission=self.admission,
            budgets=self.budgets,
            cache=self.response_source,
            slots=self.slots,
            circuit=self.circuit,
            tap_factories=(self.recorder.tap, self.usage_recorder.tap),
            request_fields=build_request_fields(provider, settings),
            upstream=self.upstream,
            timeouts=build_timeouts(provider),
            cors=build_cors(provider, settings),
            render=self._render,
            max_request_bytes=settings.max_request_size_bytes,
            sockets=self.sockets,
            refuses_unseen=settings.budgets_refuse_unseen,
        )

    @cached_property
    def token_steps(self) -> TokenSteps:
        """What tokens, projects, quotas, budgets and windows allow."""
        return TokenSteps(
            directory=self.directory,
            admission=self.admission,
            limits=self.limits,
            budgets=self.budgets,
            enforces_project=self.settings.enforce_project_active,
        )

    @cached_property
    def sockets(self) -> Sockets | None:
        """The WebSockets of this worker; None where the provider file opens no path."""
        settings, provider = self.settings, self.provider
        if not provider.websocket_paths:
            return None
        desk = TurnDesk(
            registry=self.exchanges,
            settlement=self.settlement,
            steps=self.token_steps,
            admission=self.admission,
            budgets=self.budgets,
            inspector=build_inspector(provider, settings),
            slots=self.slots,
            tap_factories=(self.recorder.tap, self.usage_recorder.tap),
            refuses_unseen=settings.budgets_refuse_unseen,
        )
        sockets = build_sockets(provider, settings, desk, is_draining=lambda: self.phase() == "draining")
        self.admission.watch_sockets(sockets.tokens, sockets.seen)
        return sockets

    @cached_property
    def housekeeper(self) -> Housekeeper:
        """Tidies up when this worker leads."""
        return Housekeeper(
            self.engine,
            self.audit,
            self.settings,
            counted=lambda job, rows: metrics.HOUSEKEEPING_ROWS.labels(job).inc(rows),
            changed=self._forget_token,
        )
