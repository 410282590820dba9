"""The parts of one process, each made when it is first asked for: nothing is opened before the fork, or for a command
that needs none of it."""

import threading
import time
from collections.abc import Callable
from functools import cached_property

import gevent
from gevent import monkey
from sqlalchemy import Engine

from llm_proxy import __version__, logs, metrics, redisclient, runtime_metrics
from llm_proxy.access.directory import KeyDirectory
from llm_proxy.access.gate import Gate
from llm_proxy.access.oidc import Config, OidcSignIn
from llm_proxy.access.service import KeyService
from llm_proxy.access.sessions import Sessions
from llm_proxy.access.sign_in import SignIn
from llm_proxy.accounting.admission import Admission
from llm_proxy.accounting.leasing import BEAT_S, STATEMENT_S, LeasedAdmission
from llm_proxy.accounting.ledger import root_of
from llm_proxy.accounting.rows import DatabaseRows
from llm_proxy.audit.query import AuditLog
from llm_proxy.audit.writer import AuditWriter
from llm_proxy.cache.engine import ResponseCache
from llm_proxy.cache.make import make_cache
from llm_proxy.crypto import KeyRing
from llm_proxy.db import check
from llm_proxy.db.bare import BareStatements
from llm_proxy.db.engine import create_engine
from llm_proxy.db.health import DatabaseHealth
from llm_proxy.db.idempotency import IdempotencyKeys
from llm_proxy.errors import LlmProxyError
from llm_proxy.events.capture import CaptureLimits
from llm_proxy.events.make import make_publisher
from llm_proxy.events.publisher import Publisher
from llm_proxy.events.queueing import Counters
from llm_proxy.formats.tokens import Estimator
from llm_proxy.forwarding.breaker import Circuit, Slots, slot_limit
from llm_proxy.forwarding.cors import Cors
from llm_proxy.forwarding.event_recorder import EventRecorder
from llm_proxy.forwarding.exchange import ExchangeRegistry
from llm_proxy.forwarding.fields import RequestFields
from llm_proxy.forwarding.inspection import Inspector
from llm_proxy.forwarding.pipeline import Pipeline
from llm_proxy.forwarding.rejection_audit import RejectionAudit
from llm_proxy.forwarding.reporters import AccessReporter, UsageRecorder, report_metrics
from llm_proxy.forwarding.response_cache import CacheSource, NoCache, ResponseSource
from llm_proxy.forwarding.settlement import Reporter, Settlement
from llm_proxy.housekeeping import Housekeeper
from llm_proxy.limits.failures import Failures
from llm_proxy.limits.gate import LimitGate
from llm_proxy.limits.machine import MachineStore as LimitsOfMachine
from llm_proxy.limits.redis import RedisStore as LimitsInRedis
from llm_proxy.projects.service import ProjectService
from llm_proxy.providers import LoadedProvider, ParameterRules, Provider, load_provider
from llm_proxy.runtime import shared_dir
from llm_proxy.settings import Settings
from llm_proxy.tokens.directory import TokenDirectory
from llm_proxy.tokens.service import TokenService
from llm_proxy.transport import Options, Timeouts, Upstream
from llm_proxy.usage.budgets import Budgets
from llm_proxy.usage.meter import Meter
from llm_proxy.usage.prices import Prices, load_prices
from llm_proxy.usage.query import UsageLog
from llm_proxy.usage.rollup import Rollup

Render = Callable[[LlmProxyError], tuple[str, list[tuple[str, str]], bytes]]


class Container:
    """What views, commands and the server's hooks share.

    Attributes:
        settings: All settings.
        phase: What the server layer says of this worker; `serving` where there is none.
        worker_connections: Connections that the server layer accepts; None where there is no such bound.
    """

    def __init__(self, settings: Settings, render: Render) -> None:
        self.settings, self._render = settings, render
        self.phase: Callable[[], str] = lambda: "serving"
        self.workers = 1
        self.worker_connections: int | None = None
        self._is_started = False
        self._keeping: gevent.Greenlet | None = None

    # -- storage ------------------------------------------------------------------------------------------------------

    @cached_property
    def engine(self) -> Engine:
        """The database; no connection is opened here."""
        return create_engine(self.settings)

    @cached_property
    def ring(self) -> KeyRing:
        """The keys that provider keys are sealed under."""
        return KeyRing.of(self.settings)

    @cached_property
    def health(self) -> DatabaseHealth:
        """Whether the database answers, and its time."""
        return DatabaseHealth()

    @cached_property
    def statements(self) -> BareStatements:
        """The hot path's connections: a request waits for the database for a quarter of a second at most."""
        return BareStatements(self.engine, 3, limit_s=STATEMENT_S, connect_failed=self.health.failed)

    @cached_property
    def directory(self) -> TokenDirectory:
        """Knows tokens by their bearer."""
        return TokenDirectory.of(self.statements, self.ring, self.settings, self.health)

    @cached_property
    def admission(self) -> Admission:
        """Charges requests."""
        settings, refresh = self.settings, self.directory.refresh
        beats = BareStatements(self.engine, 1, limit_s=STATEMENT_S, open_limit_s=1.0)  # must not queue behind requests
        return LeasedAdmission(
            DatabaseRows(self.statements, refresh),
            beat_rows=DatabaseRows(beats, refresh),
            root=root_of(settings),
            health=self.health,
            fresh_s=settings.token_cache_ttl_s,
            grace_s=settings.database_outage_grace_s,
            early_at=settings.cache_stats_buffer_size,
            warm=self.statements.warm,
        )

    @cached_property
    def audit(self) -> AuditWriter:
        """Writes the audit trail. Raises OSError when its file cannot be opened."""
        return AuditWriter.of(self.engine, self.settings, lambda sink: metrics.audit_failures[sink].inc())

    @cached_property
    def tokens(self) -> TokenService:
        """The rules of tokens; what it changes, this worker forgets at once."""
        return TokenService(self.engine, changed=self._forget_token)

    @cached_property
    def projects(self) -> ProjectService:
        """The rules of projects."""
        return ProjectService(self.engine, self.ring, self.tokens, changed=self.directory.forget_project)

    @cached_property
    def key_directory(self) -> KeyDirectory:
        """Knows management keys by their secret."""
        return KeyDirectory(self.engine, now=self.health.now)

    @cached_property
    def keys(self) -> KeyService:
        """The rules of management keys; what it changes, this worker forgets at once."""
        return KeyService(self.engine, changed=self.key_directory.forget)

    @cached_property
    def gate(self) -> Gate:
        """Admits the callers of the management plane."""
        return Gate.of(self.settings, self.key_directory, self.failures)

    @cached_property
    def sign_in(self) -> SignIn:
        """Begins sessions of people."""
        config = Config.of(self.settings)
        oidc = None if config is None else OidcSignIn(config, self.engine)
        return SignIn(self.gate, oidc, takes_secrets=not self.settings.admin_oidc_only)

    @cached_property
    def sessions(self) -> Sessions:
        """Sessions of people."""
        oidc = self.sign_in.oidc
        return Sessions(
            self.engine,
            self.gate,
            self.key_directory,
            self.ring,
            oidc_fingerprint=None if oidc is None else oidc.config.fingerprint(),
        )

    @cached_property
    def audit_log(self) -> AuditLog:
        """Reads the audit trail."""
        return AuditLog(self.engine)

    @cached_property
    def idempotency(self) -> IdempotencyKeys:
        """Creations that are done once."""
        return IdempotencyKeys(self.engine, self.ring)

    @cached_property
    def response_cache(self) -> ResponseCache | None:
        """Stored answers; None: HTTP_CACHE_ENABLED is off. Raises ProviderFileError."""
        if not self.settings.http_cache_enabled:
            return None
        return make_cache(self.settings, self.engine, self.provider.name)

    @cached_property
    def limits(self) -> LimitGate:
        """Windows of requests; without a limit they cost a look at four attributes."""
        return LimitGate(self.settings, LimitsOfMachine(shared_dir.shared()), self._shared_limits)

    @cached_property
    def failures(self) -> Failures:
        """Attempts to manage with a wrong credential."""
        return Failures(shared_dir.shared(), self._shared_limits)

    @cached_property
    def _shared_limits(self) -> LimitsInRedis | None:
        settings = self.settings
        if not settings.distributed_rate_limit_enabled:
            return None
        observe = metrics.redis_duration["limit"].observe
        prefix = settings.distributed_rate_limit_prefix
        return LimitsInRedis(redisclient.target(settings), prefix, observe=observe)

    @cached_property
    def prices(self) -> Prices:
        """The price list. Raises PricesFault."""
        return load_prices(self.settings)

    @cached_property
    def rollup(self) -> Rollup:
        """Sums on their way to the database."""
        return Rollup(self.engine, flushed=self._flushed, failed=metrics.FLUSH_FAILURES.inc)

    @cached_property
    def meter(self) -> Meter:
        """Counts what exchanges use."""
        estimator = Estimator(self.settings.tiktoken_cache_dir)
        return Meter(
            self.rollup,
            self.prices,
            estimator,
            count_tokens=self.limits.count_tokens,
            is_urgent=lambda token: self.budgets.is_close(token),
        )

    @cached_property
    def budgets(self) -> Budgets:
        """Budgets of tokens and projects; without one they cost a look at five attributes."""
        return Budgets(
            self.rollup, self.prices, self.statements, settle=self.meter.settle, forget=self.directory.forget
        )

    def _flushed(self, token_ids: set[str], project_ids: set[str]) -> None:
        self.budgets.flushed(token_ids, project_ids)

    @cached_property
    def usage(self) -> UsageLog:
        """Reads what was used."""
        return UsageLog(self.engine)

    @property
    def cache_purge(self) -> ResponseCache | None:
        """The same, for those that purge."""
        return self.response_cache

    # -- the way to the provider --------------------------------------------------------------------------------------

    @cached_property
    def loaded_provider(self) -> LoadedProvider:
        """The provider file. Raises ProviderFileError."""
        return load_provider(self.settings)

    @property
    def provider(self) -> Provider:
        """The one provider that this process serves. Raises ProviderFileError."""
        return self.loaded_provider.provider

    @property
    def wants_sk_keys(self) -> bool:
        """Whether provider keys are of OpenAI's form, and that is checked."""
        return self.settings.validate_api_key_format and self.provider.name == "openai"

    @cached_property
    def upstream(self) -> Upstream:
        """Sends requests."""
        provider = self.provider
        return Upstream(
            Options(
                max_idle=provider.max_idle_conns,
                max_idle_per_origin=provider.max_idle_conns_per_host,
                idle_s=provider.timeouts.idle_connection_s,
            )
        )

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
            self.admission.cut_streams(registry.streaming_tokens, registry.cut_streams_of)
        return registry

    @cached_property
    def circuit(self) -> Circuit:
        """Whether the provider is asked at all."""
        return Circuit()

    @cached_property
    def slots(self) -> Slots:
        """How many exchanges this worker runs at once."""
        return Slots(slot_limit(self.settings.max_concurrent_requests, self.workers, self.worker_connections))

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
        self.start()
        return Pipeline(
            provider,
            registry=self.exchanges,
            settlement=self.settlement,
            access=self.access,
            is_draining=lambda: self.phase() == "draining",
            inspector=_inspector(provider, settings),
            limits=self.limits,
            directory=self.directory,
            admission=self.admission,
            budgets=self.budgets,
            cache=self.response_source,
            slots=self.slots,
            circuit=self.circuit,
            tap_factories=(self.recorder.tap, self.usage_recorder.tap),
            request_fields=_request_fields(provider, settings),
            upstream=self.upstream,
            timeouts=_timeouts(provider),
            cors=_cors(provider, settings),
            render=self._render,
            max_request_bytes=settings.max_request_size_bytes,
            enforce_project_active=settings.enforce_project_active,
        )

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

    # -- their life ---------------------------------------------------------------------------------------------------

    def _forget_token(self, token_id: str) -> None:
        self.directory.forget(token_id)
        self.admission.forget(token_id)

    def readiness(self) -> str | None:
        """The check that fails, None when requests may come."""
        if self.phase() in ("grace", "draining"):
            return "draining"
        return check.readiness(self.engine) or self.limits.readiness()

    def start(self) -> None:
        """Begin what runs beside requests; once, in the process that serves."""
        if self._is_started:
            return
        self._is_started = True
        if monkey.is_module_patched("socket"):
            self.admission.start()
            self.audit.start()
            self.publisher.start()
            self.meter.start()
            self._keeping = gevent.spawn(self._keep_house)
        else:  # a development server with threads: nobody turns gevent's loop
            threading.Thread(target=self._beat_in_a_thread, daemon=True).start()
        runtime_metrics.watch()
        watch = metrics.SAMPLER.watch
        watch(metrics.INFLIGHT, lambda: len(self.exchanges.live))
        watch(metrics.STREAMS_OPEN, lambda: self.exchanges.open_streams)
        watch(metrics.EVENTS_QUEUED, lambda: self.publisher.queued)
        watch(metrics.EVENT_SPOOL_BYTES, lambda: self.publisher.spool_bytes)
        cache = self.response_cache
        if cache is not None:
            watch(metrics.CACHE_STORED_BYTES, cache.store.stored_bytes)
        watch(metrics.RATELIMIT_FALLBACK, lambda: self.limits.is_in_fallback)
        watch(metrics.CIRCUIT_OPEN, lambda: self.circuit.is_open)

    def _keep_house(self) -> None:
        while True:
            gevent.sleep(self.housekeeper.turn_s)
            self.housekeeper.turn()

    def _beat_in_a_thread(self) -> None:
        while self._is_started:
            self.admission.beat()
            self.audit.flush()
            self.publisher.turn()
            self.meter.beat()
            time.sleep(BEAT_S)

    def stop(self, *, cut: bool = False) -> None:
        """Write down everything: counts, events, then audit records. `cut`: nothing is waited for."""
        if self._is_started:
            self._is_started = False
            if self._keeping is not None:
                self._keeping.kill()
                if not cut:
                    self.housekeeper.close()
            self.admission.close()
            self.meter.close(cut=cut)
            self.publisher.close(cut=cut)
            self.audit.close()
            self.limits.close()
            self.failures.close()
            self.upstream.close()
            if self.response_cache is not None:
                self.response_cache.close()
        elif "audit" in vars(self):  # a command that wrote records without serving
            self.audit.close()

    def reopen(self) -> None:
        """SIGUSR1: the log, the audit file and the file of events may have been renamed."""
        logs.reopen()
        self.audit.reopen()
        self.publisher.reopen()


def _timeouts(provider: Provider) -> Timeouts:
    limits = provider.timeouts
    return Timeouts(limits.connect_s, limits.first_byte_s, limits.idle_s, limits.total_s)


def _inspector(provider: Provider, settings: Settings) -> Inspector:
    return Inspector(
        ParameterRules(provider.param_whitelist),
        max_request_bytes=settings.max_request_size_bytes,
        max_inspected_bytes=settings.max_inspected_body_bytes,
        allows_streams=settings.enable_streaming,
    )


def _cors(provider: Provider, settings: Settings) -> Cors:
    return Cors(
        provider.allowed_origins,
        origins=settings.cors_allowed_origins,
        methods=settings.cors_allowed_methods,
        headers=settings.cors_allowed_headers,
        max_age_s=settings.cors_max_age_s,
    )


def _request_fields(provider: Provider, settings: Settings) -> RequestFields:
    return RequestFields(
        host=provider.host,
        auth_header=provider.auth_header,
        credential_prefix=provider.credential_prefix,
        proxy_version=__version__ if settings.upstream_proxy_headers else None,
    )
