"""The parts of a process that keep and read what lasts: database, tokens, quotas, audit, usage, limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from llm_proxy import metrics
from llm_proxy.access.directory import KeyDirectory
from llm_proxy.access.flows import DatabaseFlows
from llm_proxy.access.gate import Gate
from llm_proxy.access.service import KeyService
from llm_proxy.access.sessions import Sessions
from llm_proxy.access.sign_in import SignIn, build_oidc
from llm_proxy.accounting.lease_slot import LOCK_S, STATEMENT_S
from llm_proxy.accounting.leased_quota import LeasedQuota
from llm_proxy.accounting.quota import Quota
from llm_proxy.audit.query import AuditLog
from llm_proxy.audit.writer import AuditWriter
from llm_proxy.cache.engine import ResponseCache
from llm_proxy.cache.make import make_cache
from llm_proxy.crypto import KeyRing
from llm_proxy.db.engine import create_engine, off_loop
from llm_proxy.db.health import DatabaseHealth
from llm_proxy.db.idempotency import IdempotencyKeys
from llm_proxy.db.raw import RawConnectionPool
from llm_proxy.formats.tokens import Estimator
from llm_proxy.limits.login_throttle import LoginThrottle
from llm_proxy.limits.rate_limiter import RateLimiter
from llm_proxy.limits.shared_memory import SharedMemoryStore
from llm_proxy.operations.audit_check import AuditCheck
from llm_proxy.operations.bus_state import BusState
from llm_proxy.operations.findings import Findings
from llm_proxy.operations.outcome_log import OutcomeLog
from llm_proxy.operations.outcomes import Outcomes
from llm_proxy.operations.stats import Statistics
from llm_proxy.operations.traffic import Traffic
from llm_proxy.operations.traffic_log import TrafficLog
from llm_proxy.projects.provider_keys import ProviderKeyService
from llm_proxy.projects.service import ProjectService
from llm_proxy.providers import LoadedProvider, Provider, load_provider
from llm_proxy.runtime import shared_dir
from llm_proxy.settings import Settings
from llm_proxy.tokens.authenticator import TokenAuthenticator
from llm_proxy.tokens.service import TokenService
from llm_proxy.usage.budgets import Budgets
from llm_proxy.usage.meter import Meter
from llm_proxy.usage.prices import Prices, load_prices
from llm_proxy.usage.query import UsageLog
from llm_proxy.usage.rollup import Rollup

if TYPE_CHECKING:
    from llm_proxy.limits.redis import RedisStore as LimitsInRedis


class Storage:
    """Parts that need nothing of the way to the provider but its name.

    Attributes:
        settings: All settings.
        phase: What the server layer says of this worker; `serving` where there is none.
        sources: Where each variable that is set came from.
        findings: What doctor finds; the application says how it is examined.
        workers: Worker processes of this server.
        worker_connections: Connections that the server layer accepts; None where there is no such bound.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.phase: Callable[[], str] = lambda: "serving"
        self.workers = 1
        self.sources: Mapping[str, str] = {}
        self.findings = Findings()
        self.worker_connections: int | None = None

    @cached_property
    def loaded_provider(self) -> LoadedProvider:
        """The provider file. Raises ProviderFileError."""
        return load_provider(self.settings)

    @property
    def provider(self) -> Provider:
        """The default provider, the one at the root. Raises ProviderFileError."""
        return self.loaded_provider.provider

    @property
    def provider_names(self) -> tuple[str, ...]:
        """Names of the providers that are served, the default one first."""
        return (self.provider.name, *(provider.name for provider in self.loaded_provider.others))

    @property
    def wants_sk_keys(self) -> bool:
        """Whether provider keys are of OpenAI's form, and that is checked."""
        return self.settings.tokens.validate_api_key_format and self.provider.name == "openai"

    @cached_property
    def engine(self) -> Engine:
        """The database; no connection is opened here."""
        return create_engine(self.settings.storage)

    @cached_property
    def long_engine(self) -> Engine:
        """Return the same database for long work, which never stops the event loop."""
        return off_loop(self.engine)

    @cached_property
    def ring(self) -> KeyRing:
        """The keys that provider keys are sealed under."""
        return KeyRing.from_settings(self.settings.storage)

    @cached_property
    def health(self) -> DatabaseHealth:
        """Whether the database answers, and its time."""
        return DatabaseHealth()

    @cached_property
    def statements(self) -> RawConnectionPool:
        """Return the hot path's connections: a request waits for 0.25 s at most, and for SQLite's lock for 2 s."""
        return RawConnectionPool(
            self.engine, 3, limit_s=STATEMENT_S, lock_limit_s=LOCK_S, connect_failed=self.health.failed
        )

    @cached_property
    def directory(self) -> TokenAuthenticator:
        """Knows tokens by their bearer."""
        return TokenAuthenticator.from_settings(self.statements, self.ring, self.settings, self.health)

    @cached_property
    def quota(self) -> Quota:
        """Charges requests."""
        return LeasedQuota.build(self.settings, self.engine, self.statements, self.directory.refresh, self.health)

    @cached_property
    def audit(self) -> AuditWriter:
        """Writes the audit trail. Raises OSError when its file cannot be opened."""
        return AuditWriter.from_settings(self.engine, self.settings, lambda sink: metrics.audit_failures[sink].inc())

    @cached_property
    def tokens(self) -> TokenService:
        """The rules of tokens; what it changes, this worker forgets at once."""
        return TokenService(self.engine, changed=self._forget_token)

    @cached_property
    def projects(self) -> ProjectService:
        """The rules of projects."""
        return ProjectService(self.engine, self.ring, self.tokens, changed=self.directory.forget_project)

    @cached_property
    def provider_keys(self) -> ProviderKeyService:
        """The rules of keys for providers side by side."""
        changed = self.directory.forget_project
        return ProviderKeyService(self.engine, self.ring, self.provider_names, changed=changed)

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
        return Gate.from_settings(self.settings.operation, self.key_directory, self.failures)

    @cached_property
    def sign_in(self) -> SignIn:
        """Begins sessions of people."""
        oidc = build_oidc(self.settings.sign_in, DatabaseFlows(self.engine))
        return SignIn(self.gate, oidc, takes_secrets=not self.settings.sign_in.oidc_only)

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
        return AuditLog(self.long_engine)

    @cached_property
    def audit_check(self) -> AuditCheck:
        """Verifies the audit trail."""
        return AuditCheck(self.engine)

    @cached_property
    def idempotency(self) -> IdempotencyKeys:
        """Creations that are done once."""
        return IdempotencyKeys(self.engine, self.ring)

    @cached_property
    def response_cache(self) -> ResponseCache | None:
        """Stored responses; None: HTTP_CACHE_ENABLED is off. Raises ProviderFileError."""
        if not self.settings.cache.enabled:
            return None
        return make_cache(self.settings, self.engine, self.provider.name)

    @cached_property
    def limits(self) -> RateLimiter:
        """Windows of requests; without a limit they cost a look at four attributes."""
        return RateLimiter(self.settings.limits, SharedMemoryStore(shared_dir.shared()), self._shared_limits)

    @cached_property
    def failures(self) -> LoginThrottle:
        """Attempts to manage with a wrong credential."""
        return LoginThrottle(shared_dir.shared(), self._shared_limits)

    @cached_property
    def _shared_limits(self) -> LimitsInRedis | None:
        if not self.settings.limits.distributed_enabled:
            return None
        from llm_proxy.limits.redis import RedisStore as LimitsInRedis

        return LimitsInRedis.build(self.settings)

    @cached_property
    def prices(self) -> Prices:
        """The price list. Raises PricesFault."""
        return load_prices(self.settings.tokens)

    @cached_property
    def rollup(self) -> Rollup:
        """Sums on their way to the database."""
        return Rollup(self.engine, flushed=self._flushed, failed=metrics.FLUSH_FAILURES.inc)

    @cached_property
    def meter(self) -> Meter:
        """Counts what exchanges use."""
        estimator = Estimator(self.settings.tokens.tiktoken_cache_dir)
        return Meter(
            self.rollup,
            self.prices,
            estimator,
            count_tokens=self.limits.count_tokens,
            has_providers=bool(self.loaded_provider.others),
            spent=self.traffic.spent,
            is_urgent=lambda token: self.budgets.is_close(token),
            today=self._today,
        )

    @cached_property
    def budgets(self) -> Budgets:
        """Budgets of tokens and projects; without one they cost a look at five attributes."""
        return Budgets(
            self.rollup,
            self.prices,
            self.statements,
            settle=self.meter.settle,
            forget=self.directory.forget,
            today=self._today,
        )

    def _today(self) -> date:
        """Return the UTC day by the database's clock, on which servers agree."""
        return self.health.now().date()

    def _flushed(self, token_ids: set[str], project_ids: set[str]) -> None:
        self.budgets.flushed(token_ids, project_ids)

    @cached_property
    def usage(self) -> UsageLog:
        """Reads what was used."""
        return UsageLog(self.long_engine)

    @cached_property
    def outcomes(self) -> Outcomes:
        """Counts how requests end."""
        return Outcomes(self.engine, also=self.traffic.flush)

    @cached_property
    def traffic(self) -> Traffic:
        """Adds up traffic by hour."""
        return Traffic(self.engine)

    @cached_property
    def traffic_log(self) -> TrafficLog:
        """Reads traffic by hour and day."""
        return TrafficLog(self.engine)

    @cached_property
    def outcome_log(self) -> OutcomeLog:
        """Reads how requests ended."""
        return OutcomeLog(self.long_engine)

    @cached_property
    def statistics(self) -> Statistics:
        """Reads totals."""
        return Statistics(self.long_engine)

    @cached_property
    def bus_state(self) -> BusState:
        """Reads the event bus."""
        return BusState(self.settings)

    @property
    def cache_purge(self) -> ResponseCache | None:
        """The same, for those that purge."""
        return self.response_cache

    def _forget_token(self, token_id: str) -> None:
        self.directory.forget(token_id)
        self.quota.forget(token_id)
